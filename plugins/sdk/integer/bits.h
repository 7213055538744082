// Codes of b = 2, 3, 4 or 8 bits as one bit stream a row, low bits first: code k of a row lies at bits [k·b, (k + 1)·b). A row starts on a
// byte. This is the bit order of the GPTQ interchange format, where 32 codes of 3 bits fill three words.
#pragma once

#include <cstdint>
#include <cstring>

#include "sdk/codec.h"
#include "sdk/intrinsics.h"

namespace tenon::sdk {

constexpr int64_t row_bytes(int64_t n, int bits) { return ceil_div(n * bits, 8); }

TN_FN uint32_t code_at(const uint8_t* row, int64_t k, int bits) {
  const int64_t bit = k * bits;
  const int shift = static_cast<int>(bit & 7);
  uint32_t word = row[bit >> 3];
  if (shift + bits > 8) word |= static_cast<uint32_t>(row[(bit >> 3) + 1]) << 8;
  return word >> shift & ((1u << bits) - 1);
}

// Into a row of zero bytes.
inline void put_code(uint8_t* row, int64_t k, int bits, uint32_t code) {
  const int64_t bit = k * bits;
  const uint32_t word = code << (bit & 7);
  row[bit >> 3] = static_cast<uint8_t>(row[bit >> 3] | (word & 0xff));
  if (word >> 8) row[(bit >> 3) + 1] = static_cast<uint8_t>(row[(bit >> 3) + 1] | word >> 8);
}

// A row of n codes, code(k) being the k-th: eight of them fill `bits` bytes, so that no two threads share one.
template <class F>
TN_FN void pack_row(const Block& block, int64_t n, int bits, uint8_t* row, F code) {
  const int64_t bytes = row_bytes(n, bits);
  block.each((n + 7) / 8, [=](int64_t eight) {
    const int64_t first = 8 * eight, there = n - first < 8 ? n - first : 8, at = eight * bits;
    uint64_t word = 0;
    for (int64_t i = 0; i < there; ++i) word |= static_cast<uint64_t>(code(first + i)) << (i * bits);
    for (int64_t b = 0; b < bits && at + b < bytes; ++b) row[at + b] = static_cast<uint8_t>(word >> (8 * b));
  });
}

// out[0, count) = the codes from `first` on, a multiple of 8: eight codes fill `bits` bytes. out has room for a multiple of 8.
inline void unpack(const uint8_t* row, int64_t row_length, int64_t first, int64_t count, int bits, uint8_t* out) {
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  for (int64_t k = 0; k < count; k += 8) {
    const int64_t at = (first + k) / 8 * bits;
    uint64_t word = 0, codes = 0;
    if (at + 8 <= row_length)
      std::memcpy(&word, row + at, 8);
    else
      std::memcpy(&word, row + at, static_cast<size_t>(std::min<int64_t>(bits, row_length - at)));
#if defined(__BMI2__)
    codes = _pdep_u64(word, mask * 0x0101010101010101u);  // a field of bits into each byte
#else
    for (int i = 0; i < 8; ++i) codes |= (word >> (i * bits) & mask) << (8 * i);
#endif
    std::memcpy(out + k, &codes, 8);
  }
}

}  // namespace tenon::sdk
