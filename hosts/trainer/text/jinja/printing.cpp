// str(), repr() and json.dumps() of Python.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "hosts/trainer/text/jinja/value.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer::jinja {
namespace {

constexpr size_t kLongestText = 64 << 20;

void check_size(const std::string& out) {
  if (out.size() > kLongestText) fail("a printed value is longer than 64 MiB");
}

std::string python_quoted(std::string_view text) {
  const char quote = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    char hex[8];
    if (c == quote || c == '\\') {
      (out += '\\') += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if ((c >= 0 && c < 32) || c == 127) {
      std::snprintf(hex, sizeof hex, "\\x%02x", unsigned(c));
      out += hex;
    } else {
      out += c;
    }
  }
  return out + quote;
}

void json_string(std::string_view text, bool ascii, std::string& out) {
  out += '"';
  char hex[16];
  for (size_t i = 0; i < text.size();) {
    const size_t at = i;
    const char32_t c = next_utf8(text, i);
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (c < 32 || (ascii && c > 126 && c < 0x10000)) {
          std::snprintf(hex, sizeof hex, "\\u%04x", unsigned(c));
          out += hex;
        } else if (ascii && c >= 0x10000) {
          std::snprintf(hex, sizeof hex, "\\u%04x\\u%04x", unsigned(0xD7C0 + (c >> 10)),
                        unsigned(0xDC00 + (c & 0x3FF)));
          out += hex;
        } else {
          out.append(text, at, i - at);
        }
    }
  }
  out += '"';
}

struct JsonWriter {
  const JsonStyle& style;
  std::string item = style.item_separator.empty() ? (style.indent >= 0 ? "," : ", ") : style.item_separator;
  std::string colon = style.key_separator.empty() ? ": " : style.key_separator;
  std::string out{};

  void line(int level) {
    if (style.indent >= 0) out.append("\n").append(size_t(style.indent) * size_t(level), ' ');
    check_size(out);
  }
  void write(const Value& v, int level) {
    int64_t i;
    if (v.none()) {
      out += "null";
    } else if (const auto* b = v.as<bool>()) {
      out += *b ? "true" : "false";
    } else if (integer(v, i)) {
      out += std::to_string(i);
    } else if (const auto* d = v.as<double>()) {
      out += std::isfinite(*d) ? float_text(*d) : std::isnan(*d) ? "NaN" : *d > 0 ? "Infinity" : "-Infinity";
    } else if (const auto* s = v.string()) {
      json_string(*s, style.ascii, out);
    } else if (const auto* seq = v.sequence()) {
      out += '[';
      for (size_t k = 0; k < seq->items.size(); ++k) {
        if (k) out += item;
        line(level + 1);
        write(seq->items[k], level + 1);
      }
      if (!seq->items.empty()) line(level);
      out += ']';
    } else if (const auto* dict = v.dict()) {
      std::vector<const std::pair<std::string, Value>*> entries;
      for (const auto& e : dict->entries) entries.push_back(&e);
      if (style.sort_keys)
        std::sort(entries.begin(), entries.end(), [](auto* a, auto* b) { return a->first < b->first; });
      out += '{';
      for (size_t k = 0; k < entries.size(); ++k) {
        if (k) out += item;
        line(level + 1);
        json_string(entries[k]->first, style.ascii, out);
        out += colon;
        write(entries[k]->second, level + 1);
      }
      if (!entries.empty()) line(level);
      out += '}';
    } else {
      fail(std::string("a ") + type_name(v) + " has no JSON form");
    }
    check_size(out);
  }
};

void append_repr(const Value& v, std::string& out) {
  if (const auto* s = v.string()) {
    out += python_quoted(*s);
  } else if (const auto* seq = v.sequence()) {
    out += seq->tuple ? '(' : '[';
    for (size_t i = 0; i < seq->items.size(); ++i) {
      if (i) out += ", ";
      append_repr(seq->items[i], out);
    }
    if (seq->tuple && seq->items.size() == 1) out += ',';
    out += seq->tuple ? ')' : ']';
  } else if (const auto* d = v.dict()) {
    out += '{';
    for (size_t i = 0; i < d->entries.size(); ++i) {
      if (i) out += ", ";
      out += python_quoted(d->entries[i].first) + ": ";
      append_repr(d->entries[i].second, out);
    }
    out += '}';
  } else {
    out += v.undefined() ? "Undefined" : to_text(v);
  }
  check_size(out);
}

}  // namespace

std::string float_text(double v) {
  if (std::isnan(v)) return "nan";
  if (std::isinf(v)) return v > 0 ? "inf" : "-inf";
  char buffer[64];
  const double size = std::fabs(v);
  // Python prints the shortest digits, in plain form for exponents from -4 to 15.
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, v,
                                 plain ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer, end.ptr);
  if (plain && text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::string to_text(const Value& v) {
  int64_t i;
  if (const auto* s = v.string()) return *s;
  if (v.undefined()) return "";
  if (v.none()) return "None";
  if (const auto* b = v.as<bool>()) return *b ? "True" : "False";
  if (integer(v, i)) return std::to_string(i);
  if (const auto* d = v.as<double>()) return float_text(*d);
  if (!v.sequence() && !v.dict()) fail(std::string("a ") + type_name(v) + " cannot be printed");
  return repr(v);
}

std::string repr(const Value& v) {
  std::string out;
  append_repr(v, out);
  return out;
}

std::string dump_json(const Value& v, const JsonStyle& style) {
  JsonWriter writer{style};
  writer.write(v, 0);
  return std::move(writer.out);
}

}  // namespace tenon::trainer::jinja
