// Fields of a block: little-endian, at any address.
#pragma once

#include <cstring>

#include "sdk/dtype.h"

namespace tenon::gguf {

inline uint16_t load16(const uint8_t* p) {
  return static_cast<uint16_t>(p[0] | p[1] << 8);
}
inline uint32_t load32(const uint8_t* p) {
  return load16(p) | static_cast<uint32_t>(load16(p + 2)) << 16;
}
inline float load_f16(const uint8_t* p) {
  return sdk::to_float(sdk::f16{load16(p)});
}
inline void store16(uint8_t* p, uint16_t v) {
  p[0] = static_cast<uint8_t>(v), p[1] = static_cast<uint8_t>(v >> 8);
}
inline void store_f16(uint8_t* p, float v) {
  store16(p, sdk::from_float<sdk::f16>(v).bits);
}

// The non-uniform levels of IQ4_NL and IQ4_XS.
inline constexpr int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// Twice the values of OCP's E2M1, the codes of MXFP4 and NVFP4.
inline constexpr int8_t kFp4Levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// Six-bit scale and minimum of sub-block j of Q4_K and Q5_K, packed in twelve bytes.
inline void scale_and_min(const uint8_t* s, int j, int& scale, int& min) {
  if (j < 4) {
    scale = s[j] & 63, min = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
  }
}

// Six-bit scale of sub-block j of Q3_K, packed in twelve bytes; 32 is zero.
inline int q3_scale(const uint8_t* s, int j) {
  return (j < 8 ? s[j] & 15 : s[j - 8] >> 4) | (s[8 + j % 4] >> (2 * (j / 4)) & 3) << 4;
}

// 2^(e - 128): the scale of MXFP4, halved because its levels are doubled.
inline float e8m0_half(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}

// Unsigned E4M3, halved likewise: the scale of NVFP4. 0x7f stands for no number and reads as 0.
inline float e4m3_half(uint8_t x) {
  if (x == 0x7f) return 0;
  const int exponent = x >> 3 & 15, mantissa = x & 7;
  const float unit = exponent == 0 ? 0x1p-10f : std::bit_cast<float>(static_cast<uint32_t>(exponent - 11 + 127) << 23);
  return (exponent == 0 ? static_cast<float>(mantissa) : static_cast<float>(8 + mantissa)) * unit;
}

}  // namespace tenon::gguf
