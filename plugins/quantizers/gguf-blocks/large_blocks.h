// Blocks of 256 elements: decoding. Sub-blocks of 16 or 32 have small integer scales (and minima) under one or two f16
// factors. Codes are unpacked to bytes first and scaled then; both are loops that vectorize.
#pragma once

#include "quantizers/gguf-blocks/bytes.h"

namespace tenon::gguf {

// out = code·scale of the sub-block of 16 that each of 256 codes is in (- minimum).
TN_LARGE_FN void scale_sixteens(const int8_t* q, const float* scale, float* out) {
  for (int s = 0; s < 16; ++s) {
    const float a = scale[s];
#pragma omp simd
    for (int l = 0; l < 16; ++l) out[16 * s + l] = static_cast<float>(q[16 * s + l]) * a;
  }
}

// The two-bit codes of Q2_K and Q3_K: per 128 elements 32 bytes, elements 32 apart share one.
TN_LARGE_FN void unpack_pairs(const uint8_t* from, int8_t* q) {
  for (int half = 0; half < 2; ++half, from += 32, q += 128) {
    for (int l = 0; l < 32; ++l) q[l] = static_cast<int8_t>(from[l] & 3);
    for (int l = 0; l < 32; ++l) q[32 + l] = static_cast<int8_t>(from[l] >> 2 & 3);
    for (int l = 0; l < 32; ++l) q[64 + l] = static_cast<int8_t>(from[l] >> 4 & 3);
    for (int l = 0; l < 32; ++l) q[96 + l] = static_cast<int8_t>(from[l] >> 6);
  }
}

struct Q2_K {
  static constexpr int kElements = 256, kBytes = 84;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b + 80), dmin = load_f16(b + 82);
    int8_t q[256];
    unpack_pairs(b + 16, q);
    for (int s = 0; s < 16; ++s) {
      const float a = d * static_cast<float>(b[s] & 15), m = dmin * static_cast<float>(b[s] >> 4);
#pragma omp simd
      for (int l = 0; l < 16; ++l) out[16 * s + l] = static_cast<float>(q[16 * s + l]) * a - m;
    }
  }
};

struct Q3_K {
  static constexpr int kElements = 256, kBytes = 110;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b + 108);
    int8_t q[256];
    unpack_pairs(b + 32, q);
    for (int part = 0; part < 8; ++part)  // a high bit that is missing takes four away
      for (int l = 0; l < 32; ++l) q[32 * part + l] = static_cast<int8_t>(q[32 * part + l] - (~b[l] >> part & 1) * 4);
    float scale[16];
    for (int s = 0; s < 16; ++s) scale[s] = d * static_cast<float>(q3_scale(b + 96, s) - 32);
    scale_sixteens(q, scale, out);
  }
};

struct Q4_K {
  static constexpr int kElements = 256, kBytes = 144;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const uint8_t *scales = b + 4, *q = b + 16;
    const float d = load_f16(b), dmin = load_f16(b + 2);
    for (int j = 0; j < 8; j += 2) {
      int a0, m0, a1, m1;
      scale_and_min(scales, j, a0, m0), scale_and_min(scales, j + 1, a1, m1);
      const float s0 = d * static_cast<float>(a0), o0 = dmin * static_cast<float>(m0), s1 = d * static_cast<float>(a1),
                  o1 = dmin * static_cast<float>(m1);
#pragma omp simd
      for (int l = 0; l < 32; ++l) out[32 * j + l] = static_cast<float>(q[16 * j + l] & 15) * s0 - o0;
#pragma omp simd
      for (int l = 0; l < 32; ++l) out[32 * j + 32 + l] = static_cast<float>(q[16 * j + l] >> 4) * s1 - o1;
    }
  }
};

struct Q5_K {
  static constexpr int kElements = 256, kBytes = 176;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const uint8_t *scales = b + 4, *high = b + 16, *q = b + 48;
    const float d = load_f16(b), dmin = load_f16(b + 2);
    uint8_t code[256];
    for (int j = 0; j < 8; j += 2) {
      for (int l = 0; l < 32; ++l)
        code[32 * j + l] = static_cast<uint8_t>((q[16 * j + l] & 15) | (high[l] >> j & 1) << 4);
      for (int l = 0; l < 32; ++l)
        code[32 * j + 32 + l] = static_cast<uint8_t>(q[16 * j + l] >> 4 | (high[l] >> (j + 1) & 1) << 4);
    }
    for (int j = 0; j < 8; ++j) {
      int a, m;
      scale_and_min(scales, j, a, m);
      const float s = d * static_cast<float>(a), o = dmin * static_cast<float>(m);
      for (int l = 0; l < 32; ++l) out[32 * j + l] = static_cast<float>(code[32 * j + l]) * s - o;
    }
  }
};

struct Q6_K {
  static constexpr int kElements = 256, kBytes = 210;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b + 208);
    int8_t q[256];
    for (int half = 0; half < 2; ++half) {
      const uint8_t *low = b + 64 * half, *high = b + 128 + 32 * half;
      int8_t* to = q + 128 * half;
      for (int l = 0; l < 32; ++l) to[l] = static_cast<int8_t>(((low[l] & 15) | (high[l] & 3) << 4) - 32);
      for (int l = 0; l < 32; ++l)
        to[32 + l] = static_cast<int8_t>(((low[32 + l] & 15) | (high[l] >> 2 & 3) << 4) - 32);
      for (int l = 0; l < 32; ++l) to[64 + l] = static_cast<int8_t>((low[l] >> 4 | (high[l] >> 4 & 3) << 4) - 32);
      for (int l = 0; l < 32; ++l) to[96 + l] = static_cast<int8_t>((low[32 + l] >> 4 | (high[l] >> 6) << 4) - 32);
    }
    float scale[16];
    for (int s = 0; s < 16; ++s) scale[s] = d * static_cast<float>(static_cast<int8_t>(b[192 + s]));
    scale_sixteens(q, scale, out);
  }
};

struct Q8_K {
  static constexpr int kElements = 256, kBytes = 292;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = std::bit_cast<float>(load32(b));
#pragma omp simd
    for (int j = 0; j < 256; ++j) out[j] = static_cast<float>(static_cast<int8_t>(b[4 + j])) * d;
  }
};

struct IQ4_XS {
  static constexpr int kElements = 256, kBytes = 136;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b);
    const uint16_t high = load16(b + 2);
    for (int j = 0; j < 8; ++j) {
      const float a = d * static_cast<float>(((b[4 + j / 2] >> (j % 2 * 4) & 15) | (high >> (2 * j) & 3) << 4) - 32);
      const uint8_t* q = b + 8 + 16 * j;
      for (int l = 0; l < 16; ++l) {
        out[32 * j + l] = static_cast<float>(iq4_level(q[l] & 15)) * a;
        out[32 * j + l + 16] = static_cast<float>(iq4_level(q[l] >> 4)) * a;
      }
    }
  }
};

// Five ternary digits a byte: a byte is ceil(256·v / 243), so a digit is the integer part of three times the fraction
// that is left.
struct TQ1_0 {
  static constexpr int kElements = 256, kBytes = 54;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b + 52);
    const auto run = [&](const uint8_t* from, int width, int digits) {
      for (int digit = 0, power = 1; digit < digits; ++digit, power *= 3, out += width)
        for (int l = 0; l < width; ++l) out[l] = static_cast<float>(((from[l] * power & 255) * 3 >> 8) - 1) * d;
    };
    run(b, 32, 5), run(b + 32, 16, 5), run(b + 48, 4, 4);
  }
};

struct TQ2_0 {
  static constexpr int kElements = 256, kBytes = 66;
  static TN_LARGE_FN void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b + 64);
    for (int part = 0; part < 8; ++part)
#pragma omp simd
      for (int l = 0; l < 32; ++l)
        out[32 * part + l] = static_cast<float>((b[32 * (part / 4) + l] >> (part % 4 * 2) & 3) - 1) * d;
  }
};

}  // namespace tenon::gguf
