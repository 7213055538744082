// UTF-8 by hand: the tokenizers walk gigabytes of it, so that decoding is inline and assumes text that
// find_invalid_utf8 accepted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tenon::trainer {

// Offset of the first byte that is not part of well-formed UTF-8 (overlong forms, surrogates and values over U+10FFFF
// are ill-formed too), or std::string_view::npos when all of `text` is well-formed.
size_t find_invalid_utf8(std::string_view text);

// Offset of the first byte of a character that `text` starts but does not finish, or text.size() when it ends on a
// boundary.
size_t incomplete_utf8_tail(std::string_view text);

void append_utf8(std::string& out, char32_t c);

// Well-formed `text` with every ill-formed sequence replaced by U+FFFD, one per maximal prefix, as Unicode recommends.
std::string replace_invalid_utf8(std::string_view text);

inline size_t utf8_length(unsigned char lead) {
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

// The character at text[pos]; moves pos past it. The text must be well-formed and pos on a boundary inside it.
inline char32_t next_utf8(std::string_view text, size_t& pos) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data()) + pos;
  const unsigned char lead = p[0];
  if (lead < 0x80) return pos += 1, lead;
  if (lead < 0xE0) return pos += 2, char32_t((lead & 0x1F) << 6 | (p[1] & 0x3F));
  if (lead < 0xF0) return pos += 3, char32_t((lead & 0x0F) << 12 | (p[1] & 0x3F) << 6 | (p[2] & 0x3F));
  return pos += 4, char32_t((lead & 0x07) << 18 | (p[1] & 0x3F) << 12 | (p[2] & 0x3F) << 6 | (p[3] & 0x3F));
}

// The character that ends at text[pos - 1]; moves pos to its start. pos must be a boundary > 0.
inline char32_t previous_utf8(std::string_view text, size_t& pos) {
  do {
    --pos;
  } while ((static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80);
  size_t at = pos;
  return next_utf8(text, at);
}

}  // namespace tenon::trainer
