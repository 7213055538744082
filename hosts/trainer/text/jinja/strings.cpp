#include "hosts/trainer/text/jinja/strings.h"

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>

#include "hosts/trainer/text/unicode/char_class.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer::jinja {
namespace {

bool is_space(char32_t c) {
  return (char_class(c) & kSpace) || (c >= 0x1C && c <= 0x1F);
}  // Python's white space

std::string mapped(std::string_view text, icu::UnicodeString& (*map)(icu::UnicodeString&)) {
  icu::UnicodeString s = icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), int32_t(text.size())));
  std::string out;
  map(s).toUTF8String(out);
  return out;
}

}  // namespace

std::string_view strip(std::string_view text, const std::string* set, bool left, bool right) {
  std::u32string wanted;
  if (set)
    for (size_t i = 0; i < set->size();) wanted += next_utf8(*set, i);
  const auto drop = [&](char32_t c) { return set ? wanted.find(c) != std::u32string::npos : is_space(c); };
  size_t begin = 0, end = text.size();
  for (size_t i = 0; left && begin < end; begin = i)
    if (!drop(next_utf8(text, i))) break;
  for (size_t i = end; right && begin < end; end = i)
    if (!drop(previous_utf8(text, i))) break;
  return text.substr(begin, end - begin);
}

std::vector<std::string> split_text(std::string_view text, std::string_view by, int64_t limit, bool from_right) {
  std::vector<std::string> parts;
  if (from_right) {
    size_t end = text.size();
    for (; limit != 0; --limit) {
      const size_t at = end >= by.size() ? text.rfind(by, end - by.size()) : std::string_view::npos;
      if (at == std::string_view::npos) break;
      parts.emplace_back(text.substr(at + by.size(), end - at - by.size()));
      end = at;
    }
    parts.emplace_back(text.substr(0, end));
    std::reverse(parts.begin(), parts.end());
    return parts;
  }
  size_t begin = 0;
  for (; limit != 0; --limit) {
    const size_t at = text.find(by, begin);
    if (at == std::string_view::npos) break;
    parts.emplace_back(text.substr(begin, at - begin));
    begin = at + by.size();
  }
  parts.emplace_back(text.substr(begin));
  return parts;
}

std::vector<std::string> split_words(std::string_view text, int64_t limit, bool from_right) {
  std::vector<std::string> parts;
  text = strip(text, nullptr, true, true);
  while (!text.empty()) {
    size_t cut = from_right ? text.size() : 0;
    for (size_t i = cut; limit != 0 && (from_right ? cut > 0 : cut < text.size()); cut = i)
      if (is_space(from_right ? previous_utf8(text, i) : next_utf8(text, i))) break;
    if (limit == 0) cut = from_right ? 0 : text.size();
    parts.emplace_back(from_right ? text.substr(cut) : text.substr(0, cut));
    text =
        from_right ? strip(text.substr(0, cut), nullptr, false, true) : strip(text.substr(cut), nullptr, true, false);
    if (limit > 0) --limit;
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> split_lines(std::string_view text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find_first_of("\r\n", begin), text.size());
    lines.emplace_back(text.substr(begin, end - begin));
    begin = end + (text.substr(end).starts_with("\r\n") ? 2 : 1);
  }
  return lines;
}

std::string replace(std::string_view text, std::string_view from, std::string_view to, int64_t limit) {
  std::string out;
  size_t begin = 0;
  for (; limit != 0; --limit) {
    if (from.empty()) {  // before every character, and at the end
      out += to;
      if (begin == text.size()) return out;
      const size_t at = begin;
      next_utf8(text, begin);
      out += text.substr(at, begin - at);
      continue;
    }
    const size_t at = text.find(from, begin);
    if (at == std::string_view::npos) break;
    out.append(text.substr(begin, at - begin)).append(to);
    begin = at + from.size();
  }
  return out.append(text.substr(begin));
}

std::string upper(std::string_view text) {
  return mapped(text, [](icu::UnicodeString& s) -> icu::UnicodeString& { return s.toUpper(icu::Locale::getRoot()); });
}
std::string lower(std::string_view text) {
  return mapped(text, [](icu::UnicodeString& s) -> icu::UnicodeString& { return s.toLower(icu::Locale::getRoot()); });
}

std::string title(std::string_view text) {
  std::string out;
  bool inside = false;  // Python: a word starts after anything that has no case
  for (size_t i = 0; i < text.size();) {
    const auto c = UChar32(next_utf8(text, i));
    append_utf8(out, char32_t(inside ? u_tolower(c) : u_totitle(c)));
    inside = u_hasBinaryProperty(c, UCHAR_CASED);
  }
  return out;
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return "";
  size_t i = 0;
  std::string out;
  append_utf8(out, char32_t(u_totitle(UChar32(next_utf8(text, i)))));
  return out + lower(text.substr(i));
}

bool is_class(std::string_view text, std::string_view name) {
  bool cased = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_utf8(text, i);
    const uint8_t flags = char_class(c);
    const bool up = u_isUUppercase(UChar32(c)), low = u_isULowercase(UChar32(c));
    cased = cased || up || low;
    const bool holds = name == "isalpha"   ? flags & kLetter
                       : name == "isalnum" ? flags & (kLetter | kNumber)
                       : name == "isspace" ? is_space(c)
                       : name == "isupper" ? !low
                       : name == "islower" ? !up
                       : name == "isdigit" ? u_charDigitValue(UChar32(c)) >= 0
                                           : flags & kNumber;
    if (!holds) return false;
  }
  return name == "isupper" || name == "islower" ? cased : !text.empty();
}

}  // namespace tenon::trainer::jinja
