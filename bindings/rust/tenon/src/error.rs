use std::ffi::{c_void, CStr, CString};
use std::fmt;
use std::os::raw::c_char;
use std::sync::Mutex;

use tenon_sys as sys;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Status {
    Argument,
    Version,
    Unsupported,
    Memory,
    Device,
    Io,
    Format,
    NotFound,
    Conflict,
    Numeric,
    State,
    Trust,
    Cancelled,
    Internal,
}

impl Status {
    fn of(code: i32) -> Status {
        match code {
            sys::TN_E_ARGUMENT => Status::Argument,
            sys::TN_E_VERSION => Status::Version,
            sys::TN_E_UNSUPPORTED => Status::Unsupported,
            sys::TN_E_MEMORY => Status::Memory,
            sys::TN_E_DEVICE => Status::Device,
            sys::TN_E_IO => Status::Io,
            sys::TN_E_FORMAT => Status::Format,
            sys::TN_E_NOT_FOUND => Status::NotFound,
            sys::TN_E_CONFLICT => Status::Conflict,
            sys::TN_E_NUMERIC => Status::Numeric,
            sys::TN_E_STATE => Status::State,
            sys::TN_E_TRUST => Status::Trust,
            sys::TN_E_CANCELLED => Status::Cancelled,
            _ => Status::Internal,
        }
    }
}

/// What the library refused or failed at: one sentence that names the thing, the value, the limit and the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    status: Status,
    sentence: String,
}

/// Of every fallible call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn argument(sentence: impl Into<String>) -> Error {
        Error { status: Status::Argument, sentence: sentence.into() }
    }
    pub(crate) fn format(sentence: impl Into<String>) -> Error {
        Error { status: Status::Format, sentence: sentence.into() }
    }
    /// The kind.
    pub fn status(&self) -> Status {
        self.status
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Error {}

pub(crate) unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    CStr::from_ptr(text).to_string_lossy().into_owned()
}

fn failed(code: i32, sentence: *const c_char) -> Result<()> {
    if code >= 0 {
        return Ok(());
    }
    let mut sentence = unsafe { text_of(sentence) };
    if sentence.is_empty() {
        sentence = unsafe { text_of(sys::tn_status_message(code)) };
    }
    Err(Error { status: Status::of(code), sentence })
}

pub(crate) fn check(code: i32) -> Result<()> {
    failed(code, unsafe { sys::tn_last_error() })
}

pub(crate) fn check_trainer(code: i32) -> Result<()> {
    failed(code, unsafe { sys::tn_trainer_last_error() })
}

/// The text that `fill` leaves in its argument; it is the library's to free.
pub(crate) fn take(fill: impl FnOnce(*mut *mut c_char) -> Result<()>) -> Result<String> {
    let mut out = std::ptr::null_mut();
    fill(&mut out)?;
    let text = unsafe { text_of(out) };
    unsafe { sys::tn_free_string(out) };
    Ok(text)
}

pub(crate) fn c_text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::argument(format!("the text {:?} contains a NUL character", text)))
}

/// Texts as the library wants lists of them.
pub(crate) struct Texts {
    _kept: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Texts {
    pub(crate) fn new(texts: &[&str]) -> Result<Texts> {
        let kept = texts.iter().map(|t| c_text(t)).collect::<Result<Vec<_>>>()?;
        let pointers = kept.iter().map(|t| t.as_ptr()).collect();
        Ok(Texts { _kept: kept, pointers })
    }
    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
    pub(crate) fn len(&self) -> u64 {
        self.pointers.len() as u64
    }
}

/// The library's version: "0.9.0".
pub fn version() -> String {
    unsafe { text_of(sys::tn_version()) }
}

/// The ABI that plugins are offered: (major, minor).
pub fn abi_version() -> (u32, u32) {
    let (mut major, mut minor) = (0, 0);
    unsafe { sys::tn_abi_version(&mut major, &mut minor) };
    (major, minor)
}

type Log = Box<dyn FnMut(i32, &str) + Send>;
static LOG: Mutex<Option<Log>> = Mutex::new(None);

unsafe extern "C" fn log(_: *mut c_void, level: i32, sentence: *const c_char) {
    let line = text_of(sentence);
    // A panic stops at the border; the next line is told to nobody then.
    let _ = std::panic::catch_unwind(|| {
        if let Ok(mut function) = LOG.lock() {
            if let Some(function) = function.as_mut() {
                function(level, &line);
            }
        }
    });
}

/// Who gets the lines that plugins log: level (1 debug, 2 info, 3 warning) and one sentence, from any thread.
pub fn set_log(function: Option<Log>) {
    let some = function.is_some();
    *LOG.lock().unwrap_or_else(|e| e.into_inner()) = function;
    unsafe { sys::tn_set_log(if some { Some(log) } else { None }, std::ptr::null_mut()) };
}
