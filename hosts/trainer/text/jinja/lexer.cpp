#include "hosts/trainer/text/jinja/lexer.h"

#include <algorithm>
#include <charconv>

#include "hosts/trainer/text/unicode/char_class.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer::jinja {
namespace {

bool name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool digit(char c) {
  return c >= '0' && c <= '9';
}
bool space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

class Lexer {
 public:
  explicit Lexer(std::string source) : s_(std::move(source)) {}

  std::vector<Token> run() {
    while (pos_ < s_.size()) {
      data();
      if (pos_ >= s_.size()) break;
      const char kind = s_[pos_ + 1];
      pos_ += 2;
      if (pos_ < s_.size() && (s_[pos_] == '-' || s_[pos_] == '+')) ++pos_;
      if (kind == '#') {
        comment();
      } else if (kind == '%' && raw()) {
        continue;
      } else {
        push(kind == '%' ? TokenKind::kBlockBegin : TokenKind::kPrintBegin, "");
        inside(kind == '%' ? "%}" : "}}", kind == '%');
      }
    }
    push(TokenKind::kEnd, "");
    return std::move(out_);
  }

 private:
  [[noreturn]] void error(const std::string& what) const { fail("line " + std::to_string(line_) + ": " + what); }
  void push(TokenKind kind, std::string text, Value number = {}) {
    out_.push_back({kind, std::move(text), std::move(number), line_});
  }
  void count_lines(size_t from, size_t to) {
    line_ += int(std::count(s_.begin() + long(from), s_.begin() + long(to), '\n'));
  }

  // Text up to the next tag, stripped as the tag asks.
  void data() {
    size_t tag = pos_;
    for (;; ++tag) {
      tag = s_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= s_.size()) {
        tag = s_.size();
        break;
      }
      if (s_[tag + 1] == '%' || s_[tag + 1] == '{' || s_[tag + 1] == '#') break;
    }
    std::string_view text = std::string_view(s_).substr(pos_, tag - pos_);
    if (tag < s_.size()) text = stripped(text, tag);
    if (!text.empty()) push(TokenKind::kData, std::string(text));
    count_lines(pos_, tag);
    pos_ = tag;
  }

  std::string_view stripped(std::string_view text, size_t tag) const {
    const char sign = tag + 2 < s_.size() ? s_[tag + 2] : 0;
    if (sign == '-') {
      size_t end = text.size();
      for (size_t i = end; end > 0; end = i)
        if (!(char_class(previous_utf8(text, i)) & kSpace)) break;
      return text.substr(0, end);
    }
    if (sign == '+' || s_[tag + 1] == '{') return text;
    const size_t line = text.rfind('\n') + 1;  // 0 when the text has no newline
    if (line == 0 && !line_start_) return text;
    return std::all_of(text.begin() + long(line), text.end(), space) ? text.substr(0, line) : text;
  }

  // Past the closing delimiter at pos_ (a sign first, if any), eating what it eats.
  void close(bool trim_newline) {
    const char sign = s_[pos_];
    const size_t from = pos_;
    pos_ += sign == '-' || sign == '+' ? 3 : 2;
    if (sign == '-') {
      for (size_t i = pos_; pos_ < s_.size(); pos_ = i)
        if (!(char_class(next_utf8(s_, i)) & kSpace)) break;
    } else if (sign != '+' && trim_newline && pos_ < s_.size() && s_[pos_] == '\n') {
      ++pos_;
    }
    line_start_ = s_[pos_ - 1] == '\n';
    count_lines(from, pos_);
  }

  void comment() {
    const size_t end = s_.find("#}", pos_);
    if (end == std::string::npos) error("a comment is not closed with #}");
    count_lines(pos_, end);
    pos_ = end > pos_ && (s_[end - 1] == '-' || s_[end - 1] == '+') ? end - 1 : end;
    close(true);
  }

  // {% raw %}...{% endraw %}; false when the block is another.
  bool raw() {
    size_t p = pos_;
    const auto word = [&](size_t at, std::string_view w, size_t& after) {
      while (at < s_.size() && space(s_[at])) ++at;
      if (s_.compare(at, w.size(), w) != 0) return false;
      at += w.size();
      while (at < s_.size() && space(s_[at])) ++at;
      after = at;
      return s_.compare(at, 2, "%}") == 0 || s_.compare(at, 3, "-%}") == 0 || s_.compare(at, 3, "+%}") == 0;
    };
    if (!word(p, "raw", p)) return false;
    pos_ = p;
    close(true);
    for (size_t tag = s_.find("{%", pos_); tag != std::string::npos; tag = s_.find("{%", tag + 2)) {
      size_t inner = tag + 2, after;
      if (inner < s_.size() && (s_[inner] == '-' || s_[inner] == '+')) ++inner;
      if (!word(inner, "endraw", after)) continue;
      const std::string_view text = stripped(std::string_view(s_).substr(pos_, tag - pos_), tag);
      if (!text.empty()) push(TokenKind::kData, std::string(text));
      count_lines(pos_, tag);
      pos_ = after;
      close(true);
      return true;
    }
    error("raw is not closed with endraw");
  }

  void inside(std::string_view closing, bool block) {
    int brackets = 0;
    for (;;) {
      while (pos_ < s_.size() && space(s_[pos_])) line_ += s_[pos_++] == '\n';
      if (pos_ >= s_.size()) error("a tag is not closed with " + std::string(closing));
      const std::string_view rest = std::string_view(s_).substr(pos_);
      if (brackets == 0 && (rest.starts_with(closing) ||
                            ((rest[0] == '-' || (block && rest[0] == '+')) && rest.substr(1).starts_with(closing)))) {
        push(block ? TokenKind::kBlockEnd : TokenKind::kPrintEnd, "");
        return close(block);
      }
      const char c = rest[0];
      if (name_start(c)) {
        size_t end = pos_;
        while (end < s_.size() && (name_start(s_[end]) || digit(s_[end]))) ++end;
        push(TokenKind::kName, s_.substr(pos_, end - pos_));
        pos_ = end;
      } else if (digit(c)) {
        number();
      } else if (c == '"' || c == '\'') {
        string(c);
      } else {
        operation(rest, brackets);
      }
    }
  }

  void operation(std::string_view rest, int& brackets) {
    static constexpr std::string_view kTwo[] = {"**", "//", "==", "!=", "<=", ">="};
    for (const auto two : kTwo) {
      if (!rest.starts_with(two)) continue;
      push(TokenKind::kOperator, std::string(two));
      pos_ += 2;
      return;
    }
    const char c = rest[0];
    if (std::string_view("+-*/%~()[]{}<>=.:,|").find(c) == std::string_view::npos)
      error(std::string("the character '") +
            (c > 32 && c < 127 ? std::string(1, c) : "\\" + std::to_string(int(static_cast<unsigned char>(c)))) +
            "' has no meaning here");
    if (c == '(' || c == '[' || c == '{') ++brackets;
    if (c == ')' || c == ']' || c == '}')
      if (--brackets < 0) error("a bracket is closed that was not opened");
    push(TokenKind::kOperator, std::string(1, c));
    ++pos_;
  }

  void number() {
    size_t end = pos_;
    std::string text;
    bool real = false;
    const auto digits = [&] {
      for (; end < s_.size() && (digit(s_[end]) || s_[end] == '_'); ++end)
        if (s_[end] != '_') text += s_[end];
    };
    digits();
    if (end + 1 < s_.size() && s_[end] == '.' && digit(s_[end + 1])) {
      real = true;
      text += s_[end++];
      digits();
    }
    if (end < s_.size() && (s_[end] == 'e' || s_[end] == 'E')) {
      size_t p = end + 1;
      if (p < s_.size() && (s_[p] == '+' || s_[p] == '-')) ++p;
      if (p < s_.size() && digit(s_[p])) {
        real = true;
        text.append(s_, end, p - end);
        end = p;
        digits();
      }
    }
    int64_t whole = 0;
    double value = 0;
    const char *first = text.data(), *last = first + text.size();
    if ((real ? std::from_chars(first, last, value).ec : std::from_chars(first, last, whole).ec) != std::errc())
      error("the number " + text + " is out of range");
    push(TokenKind::kNumber, text, real ? Value(value) : Value(whole));
    pos_ = end;
  }

  // The value of `count` hexadecimal digits at `at`, or -1.
  int64_t hex(size_t at, size_t count) const {
    uint32_t value = 0;
    if (at + count > s_.size()) return -1;
    const auto r = std::from_chars(s_.data() + at, s_.data() + at + count, value, 16);
    return r.ec == std::errc() && r.ptr == s_.data() + at + count ? int64_t(value) : -1;
  }

  void string(char quote) {
    std::string text;
    size_t p = pos_ + 1;
    for (; p < s_.size() && s_[p] != quote; ++p) {
      if (s_[p] != '\\' || p + 1 >= s_.size()) {
        text += s_[p];
        continue;
      }
      const char c = s_[++p];
      static constexpr std::string_view kFrom = "ntrbfav0\\'\"", kTo{"\n\t\r\b\f\a\v\0\\'\"", 11};
      const size_t simple = kFrom.find(c);
      const size_t width = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
      if (simple != std::string_view::npos) {
        text += kTo[simple];
      } else if (width) {
        const int64_t code = hex(p + 1, width);
        if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
          error("a string has a broken \\" + std::string(1, c) + " escape");
        append_utf8(text, char32_t(code));
        p += width;
      } else if (c != '\n') {
        (text += '\\') += c;
      }
    }
    if (p >= s_.size()) error("a string is not closed");
    push(TokenKind::kString, std::move(text));
    count_lines(pos_, p);
    pos_ = p + 1;
  }

  std::string s_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_start_ = true;  // the text begins a line: the source does, or the last tag ate a newline
  std::vector<Token> out_;
};

}  // namespace

std::vector<Token> tokenize_template(std::string_view source) {
  if (const size_t bad = find_invalid_utf8(source); bad != std::string_view::npos)
    fail("byte " + std::to_string(bad) + " is not UTF-8");
  std::string normalized;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r')
      normalized += source[i];
    else if (i + 1 == source.size() || source[i + 1] != '\n')
      normalized += '\n';
    else
      continue;
  }
  if (normalized.ends_with('\n')) normalized.pop_back();
  return Lexer(std::move(normalized)).run();
}

}  // namespace tenon::trainer::jinja
