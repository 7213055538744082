use std::fmt;

use crate::{Error, Result};

/// A JSON value, as the library answers lists and records.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads one document.
    pub fn parse(text: &str) -> Result<Json> {
        let mut reader = Reader { bytes: text.as_bytes(), at: 0, depth: 0 };
        let value = reader.value()?;
        reader.space();
        if reader.at != text.len() {
            return reader.refuse();
        }
        Ok(value)
    }
    /// The value of a key of an object.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(fields) => fields.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }
    /// The items of a list; none of anything else.
    pub fn items(&self) -> &[Json] {
        match self {
            Json::List(items) => items,
            _ => &[],
        }
    }
    /// A text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }
    /// A number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Json::Number(number) => Some(*number),
            _ => None,
        }
    }
    /// true or false.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Json::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{}", value),
            Json::Number(number) if number.is_finite() => write!(f, "{}", number),
            Json::Number(_) => f.write_str("null"),
            Json::Text(text) => quote(f, text),
            Json::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{}", if i == 0 { "[" } else { "," }, item)?;
                }
                f.write_str(if items.is_empty() { "[]" } else { "]" })
            }
            Json::Object(fields) => {
                f.write_str("{")?;
                for (i, (key, value)) in fields.iter().enumerate() {
                    f.write_str(if i == 0 { "" } else { "," })?;
                    quote(f, key)?;
                    write!(f, ":{}", value)?;
                }
                f.write_str("}")
            }
        }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{}", c)?,
            c if (c as u32) < 0x20 => write!(f, "\\u{:04x}", c as u32)?,
            c => write!(f, "{}", c)?,
        }
    }
    f.write_str("\"")
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn refuse<T>(&self) -> Result<T> {
        Err(Error::format(format!("this is no JSON at byte {}", self.at)))
    }
    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }
    fn next_is(&mut self, word: &str) -> bool {
        self.space();
        let found = self.bytes[self.at..].starts_with(word.as_bytes());
        if found {
            self.at += word.len();
        }
        found
    }
    fn need(&mut self, word: &str) -> Result<()> {
        if self.next_is(word) {
            Ok(())
        } else {
            self.refuse()
        }
    }
    fn value(&mut self) -> Result<Json> {
        if self.depth > 200 {
            return self.refuse();
        }
        self.depth += 1;
        let value = self.any();
        self.depth -= 1;
        value
    }
    fn any(&mut self) -> Result<Json> {
        if self.next_is("null") {
            return Ok(Json::Null);
        }
        if self.next_is("true") {
            return Ok(Json::Bool(true));
        }
        if self.next_is("false") {
            return Ok(Json::Bool(false));
        }
        if self.next_is("[") {
            let mut items = Vec::new();
            while !self.next_is("]") {
                if !items.is_empty() {
                    self.need(",")?;
                }
                items.push(self.value()?);
            }
            return Ok(Json::List(items));
        }
        if self.next_is("{") {
            let mut fields = Vec::new();
            while !self.next_is("}") {
                if !fields.is_empty() {
                    self.need(",")?;
                }
                self.space();
                let key = self.text()?;
                self.need(":")?;
                fields.push((key, self.value()?));
            }
            return Ok(Json::Object(fields));
        }
        if self.bytes.get(self.at) == Some(&b'"') {
            return Ok(Json::Text(self.text()?));
        }
        let begin = self.at;
        while matches!(self.bytes.get(self.at), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        match std::str::from_utf8(&self.bytes[begin..self.at]).ok().and_then(|t| t.parse().ok()) {
            Some(number) => Ok(Json::Number(number)),
            None => self.refuse(),
        }
    }
    fn hex(&mut self) -> Result<u32> {
        let digits = self.bytes.get(self.at..self.at + 4).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u32::from_str_radix(d, 16).ok());
        self.at += 4;
        digits.map_or_else(|| self.refuse(), Ok)
    }
    fn text(&mut self) -> Result<String> {
        self.need("\"")?;
        let mut out = Vec::new();
        loop {
            let byte = match self.bytes.get(self.at) {
                Some(byte) => *byte,
                None => return self.refuse(),
            };
            self.at += 1;
            match byte {
                b'"' => return String::from_utf8(out).or_else(|_| self.refuse()),
                b'\\' => {
                    let escape = self.bytes.get(self.at).copied().unwrap_or(0);
                    self.at += 1;
                    let c = match escape {
                        b'n' => '\n',
                        b't' => '\t',
                        b'r' => '\r',
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'"' | b'\\' | b'/' => escape as char,
                        b'u' => {
                            let mut code = self.hex()?;
                            if (0xd800..0xdc00).contains(&code) {
                                self.need("\\u")?;
                                let low = self.hex()?;
                                if !(0xdc00..0xe000).contains(&low) {
                                    return self.refuse();
                                }
                                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                            }
                            char::from_u32(code).map_or_else(|| self.refuse(), Ok)?
                        }
                        _ => return self.refuse(),
                    };
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                byte => out.push(byte),
            }
        }
    }
}
