#include "core/files/bytes.h"

namespace tenon {
namespace {

constexpr size_t kLongestQuote = 96;

// Length of the well-formed UTF-8 sequence at `at`, or 0. Overlong forms and surrogates do not matter in a message.
size_t sequence_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  const size_t length = lead < 0x80                   ? 1
                        : lead >= 0xF0 && lead < 0xF5 ? 4
                        : lead >= 0xE0 && lead < 0xF0 ? 3
                        : lead >= 0xC2 && lead < 0xE0 ? 2
                                                      : 0;
  if (length == 0 || at + length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

std::string quote_name(std::string_view text) {
  std::string out = "'";
  size_t at = 0;
  while (at < text.size() && at < kLongestQuote) {
    const size_t length = sequence_length(text, at);
    const auto lead = static_cast<unsigned char>(text[at]);
    if (length == 0 || lead < 0x20 || lead == 0x7F) {
      out += '?';
      ++at;
    } else {
      out.append(text, at, length);
      at += length;
    }
  }
  if (at < text.size()) out += "...";
  return out + "'";
}

}  // namespace tenon
