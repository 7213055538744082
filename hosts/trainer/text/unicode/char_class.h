// Unicode character classes as one byte of flags per code point, tabled once from ICU.
#pragma once

#include <cstdint>

namespace tenon::trainer {

enum CharClass : uint8_t {
  kLetter = 1,        // \p{L}
  kNumber = 2,        // \p{N}
  kSpace = 4,         // White_Space, \s
  kWord = 8,          // \w: Alphabetic, marks, decimal digits, connector punctuation, join controls
  kPunctuation = 16,  // \p{P} or ASCII punctuation
  kMark = 32,         // \p{M}
};

// 0x110000 entries of CharClass flags, built at the first call. Hot loops keep the pointer. [any-thread]
const uint8_t* char_class_table();

inline uint8_t char_class(char32_t c) {
  return char_class_table()[c];
}

}  // namespace tenon::trainer
