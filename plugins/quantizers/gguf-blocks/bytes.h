// Fields of a block: little-endian, at any address.
#pragma once

#include <cstring>

#include "sdk/dtype.h"

// As TN_FN, but inlined only where the compiler likes.
#if defined(__CUDACC__) || defined(__HIP__)
#define TN_LARGE_FN inline __host__ __device__
#else
#define TN_LARGE_FN inline
#endif

namespace tenon::gguf {

TN_LARGE_FN uint16_t load16(const uint8_t* p) {
  return static_cast<uint16_t>(p[0] | p[1] << 8);
}
TN_LARGE_FN uint32_t load32(const uint8_t* p) {
  return load16(p) | static_cast<uint32_t>(load16(p + 2)) << 16;
}
TN_LARGE_FN float load_f16(const uint8_t* p) {
  return sdk::to_float(sdk::f16{load16(p)});
}
TN_LARGE_FN void store16(uint8_t* p, uint16_t v) {
  p[0] = static_cast<uint8_t>(v), p[1] = static_cast<uint8_t>(v >> 8);
}
TN_LARGE_FN void store_f16(uint8_t* p, float v) {
  store16(p, sdk::from_float<sdk::f16>(v).bits);
}

struct Levels {
  int8_t level[16];
};
// The non-uniform levels of IQ4_NL and IQ4_XS.
TN_TABLE(Levels, kIq4, {{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}});
// Twice the values of OCP's E2M1, the codes of MXFP4 and NVFP4.
TN_TABLE(Levels, kFp4, {{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}});
TN_FN int8_t iq4_level(int code) { return TN_TABLE_OF(kIq4).level[code]; }
TN_FN int8_t fp4_level(int code) { return TN_TABLE_OF(kFp4).level[code]; }

// Six-bit scale and minimum of sub-block j of Q4_K and Q5_K, packed in twelve bytes.
TN_LARGE_FN void scale_and_min(const uint8_t* s, int j, int& scale, int& min) {
  if (j < 4) {
    scale = s[j] & 63, min = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
  }
}

// Six-bit scale of sub-block j of Q3_K, packed in twelve bytes; 32 is zero.
TN_LARGE_FN int q3_scale(const uint8_t* s, int j) {
  return (j < 8 ? s[j] & 15 : s[j - 8] >> 4) | (s[8 + j % 4] >> (2 * (j / 4)) & 3) << 4;
}

// 2^(e - 128): the scale of MXFP4, halved because its levels are doubled.
TN_LARGE_FN float e8m0_half(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}

// Unsigned E4M3, halved likewise: the scale of NVFP4. 0x7f stands for no number and reads as 0.
TN_LARGE_FN float e4m3_half(uint8_t x) {
  if (x == 0x7f) return 0;
  const int exponent = x >> 3 & 15, mantissa = x & 7;
  const float unit = exponent == 0 ? 0x1p-10f : std::bit_cast<float>(static_cast<uint32_t>(exponent - 11 + 127) << 23);
  return (exponent == 0 ? static_cast<float>(mantissa) : static_cast<float>(8 + mantissa)) * unit;
}

}  // namespace tenon::gguf
