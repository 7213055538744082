// Blocks of 32 elements (NVFP4: 64) with f16 scales: decoding. Byte j of the codes holds element j in its low nibble
// and element j + 16 in its high one. `omp simd` keeps loops of sixteen from being unrolled before they are vectorized.
#pragma once

#include "quantizers/gguf-blocks/bytes.h"

namespace tenon::gguf {

struct Q4_0 {
  static constexpr int kElements = 32, kBytes = 18;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b);
#pragma omp simd
    for (int j = 0; j < 16; ++j) out[j] = static_cast<float>((b[2 + j] & 15) - 8) * d;
#pragma omp simd
    for (int j = 0; j < 16; ++j) out[j + 16] = static_cast<float>((b[2 + j] >> 4) - 8) * d;
  }
};

struct Q4_1 {
  static constexpr int kElements = 32, kBytes = 20;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b), m = load_f16(b + 2);
#pragma omp simd
    for (int j = 0; j < 16; ++j) out[j] = static_cast<float>(b[4 + j] & 15) * d + m;
#pragma omp simd
    for (int j = 0; j < 16; ++j) out[j + 16] = static_cast<float>(b[4 + j] >> 4) * d + m;
  }
};

struct Q5_0 {
  static constexpr int kElements = 32, kBytes = 22;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b);
    const uint32_t high = load32(b + 2);
#pragma omp simd
    for (int j = 0; j < 16; ++j)
      out[j] = static_cast<float>(static_cast<int>((b[6 + j] & 15u) | (high >> j & 1) << 4) - 16) * d;
#pragma omp simd
    for (int j = 0; j < 16; ++j)
      out[j + 16] = static_cast<float>(static_cast<int>((b[6 + j] >> 4) | (high >> (j + 16) & 1) << 4) - 16) * d;
  }
};

struct Q5_1 {
  static constexpr int kElements = 32, kBytes = 24;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b), m = load_f16(b + 2);
    const uint32_t high = load32(b + 4);
#pragma omp simd
    for (int j = 0; j < 16; ++j)
      out[j] = static_cast<float>(static_cast<int>((b[8 + j] & 15u) | (high >> j & 1) << 4)) * d + m;
#pragma omp simd
    for (int j = 0; j < 16; ++j)
      out[j + 16] = static_cast<float>(static_cast<int>((b[8 + j] >> 4) | (high >> (j + 16) & 1) << 4)) * d + m;
  }
};

struct Q8_0 {
  static constexpr int kElements = 32, kBytes = 34;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b);
#pragma omp simd
    for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(static_cast<int8_t>(b[2 + j])) * d;
  }
};

// Q8_0 with d·Σq beside it, which a decoder does not need.
struct Q8_1 {
  static constexpr int kElements = 32, kBytes = 36;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b);
#pragma omp simd
    for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(static_cast<int8_t>(b[4 + j])) * d;
  }
};

struct IQ4_NL {
  static constexpr int kElements = 32, kBytes = 18;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b);
    for (int j = 0; j < 16; ++j) {
      out[j] = static_cast<float>(iq4_level(b[2 + j] & 15)) * d;
      out[j + 16] = static_cast<float>(iq4_level(b[2 + j] >> 4)) * d;
    }
  }
};

struct MXFP4 {
  static constexpr int kElements = 32, kBytes = 17;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = e8m0_half(b[0]);
    for (int j = 0; j < 16; ++j) {
      out[j] = static_cast<float>(fp4_level(b[1 + j] & 15)) * d;
      out[j + 16] = static_cast<float>(fp4_level(b[1 + j] >> 4)) * d;
    }
  }
};

// Four sub-blocks of 16 with a scale each; a sub-block's nibbles lie in eight bytes.
struct NVFP4 {
  static constexpr int kElements = 64, kBytes = 36;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    for (int s = 0; s < 4; ++s) {
      const float d = e4m3_half(b[s]);
      for (int j = 0; j < 8; ++j) {
        out[16 * s + j] = static_cast<float>(fp4_level(b[4 + 8 * s + j] & 15)) * d;
        out[16 * s + j + 8] = static_cast<float>(fp4_level(b[4 + 8 * s + j] >> 4)) * d;
      }
    }
  }
};

}  // namespace tenon::gguf
