// Blocks of 256 elements: decoding. Sub-blocks of 16 or 32 have small integer scales (and minima) under one or two f16 factors.
#pragma once

#include "quantizers/gguf-blocks/bytes.h"

namespace tenon::gguf {

struct Q2_K {
  static constexpr int kElements = 256, kBytes = 84;
  static void decode(const uint8_t* b, float* out) {
    const uint8_t *scales = b, *q = b + 16;
    const float d = load_f16(b + 80), dmin = load_f16(b + 82);
    for (int s = 0; s < 16; ++s) {  // sub-block of 16: half `s / 8`, shift by its place in the half
      const float a = d * static_cast<float>(scales[s] & 15), m = dmin * static_cast<float>(scales[s] >> 4);
      const uint8_t* from = q + 32 * (s / 8) + 16 * (s % 2);
      const int shift = s % 8 / 2 * 2;
      for (int l = 0; l < 16; ++l) out[16 * s + l] = static_cast<float>(from[l] >> shift & 3) * a - m;
    }
  }
};

struct Q3_K {
  static constexpr int kElements = 256, kBytes = 110;
  static void decode(const uint8_t* b, float* out) {
    const uint8_t *high = b, *q = b + 32, *scales = b + 96;
    const float d = load_f16(b + 108);
    for (int s = 0; s < 16; ++s) {
      const float a = d * static_cast<float>(q3_scale(scales, s) - 32);
      const uint8_t *from = q + 32 * (s / 8) + 16 * (s % 2), *bits = high + 16 * (s % 2);
      const int shift = s % 8 / 2 * 2, bit = s / 2;
      for (int l = 0; l < 16; ++l) out[16 * s + l] = static_cast<float>((from[l] >> shift & 3) + 4 * (bits[l] >> bit & 1) - 4) * a;
    }
  }
};

struct Q4_K {
  static constexpr int kElements = 256, kBytes = 144;
  static void decode(const uint8_t* b, float* out) {
    const uint8_t *scales = b + 4, *q = b + 16;
    const float d = load_f16(b), dmin = load_f16(b + 2);
    for (int j = 0; j < 8; j += 2) {
      int a0, m0, a1, m1;
      scale_and_min(scales, j, a0, m0), scale_and_min(scales, j + 1, a1, m1);
      const float s0 = d * static_cast<float>(a0), o0 = dmin * static_cast<float>(m0), s1 = d * static_cast<float>(a1), o1 = dmin * static_cast<float>(m1);
      for (int l = 0; l < 32; ++l) out[32 * j + l] = static_cast<float>(q[16 * j + l] & 15) * s0 - o0;
      for (int l = 0; l < 32; ++l) out[32 * j + 32 + l] = static_cast<float>(q[16 * j + l] >> 4) * s1 - o1;
    }
  }
};

struct Q5_K {
  static constexpr int kElements = 256, kBytes = 176;
  static void decode(const uint8_t* b, float* out) {
    const uint8_t *scales = b + 4, *high = b + 16, *q = b + 48;
    const float d = load_f16(b), dmin = load_f16(b + 2);
    for (int j = 0; j < 8; ++j) {
      int a, m;
      scale_and_min(scales, j, a, m);
      const float s = d * static_cast<float>(a), o = dmin * static_cast<float>(m);
      const int shift = j % 2 * 4;
      for (int l = 0; l < 32; ++l) out[32 * j + l] = static_cast<float>((q[16 * (j / 2 * 2) + l] >> shift & 15) | (high[l] >> j & 1) << 4) * s - o;
    }
  }
};

struct Q6_K {
  static constexpr int kElements = 256, kBytes = 210;
  static void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b + 208);
    for (int s = 0; s < 16; ++s) {
      const float a = d * static_cast<float>(static_cast<int8_t>(b[192 + s]));
      const int half = s / 8, quarter = s % 8 / 2, side = 16 * (s % 2);  // of 128, of 32, of 16
      const uint8_t *low = b + 64 * half + 32 * (quarter % 2) + side, *high = b + 128 + 32 * half + side;
      const int low_shift = quarter / 2 * 4, high_shift = quarter * 2;
      for (int l = 0; l < 16; ++l)
        out[16 * s + l] = static_cast<float>(((low[l] >> low_shift & 15) | (high[l] >> high_shift & 3) << 4) - 32) * a;
    }
  }
};

struct Q8_K {
  static constexpr int kElements = 256, kBytes = 292;
  static void decode(const uint8_t* b, float* out) {
    const float d = std::bit_cast<float>(load32(b));
    for (int j = 0; j < 256; ++j) out[j] = static_cast<float>(static_cast<int8_t>(b[4 + j])) * d;
  }
};

struct IQ4_XS {
  static constexpr int kElements = 256, kBytes = 136;
  static void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b);
    const uint16_t high = load16(b + 2);
    for (int j = 0; j < 8; ++j) {
      const float a = d * static_cast<float>(((b[4 + j / 2] >> (j % 2 * 4) & 15) | (high >> (2 * j) & 3) << 4) - 32);
      const uint8_t* q = b + 8 + 16 * j;
      for (int l = 0; l < 16; ++l) {
        out[32 * j + l] = static_cast<float>(kIq4Levels[q[l] & 15]) * a;
        out[32 * j + l + 16] = static_cast<float>(kIq4Levels[q[l] >> 4]) * a;
      }
    }
  }
};

// Five ternary digits a byte: a byte is ceil(256·v / 243), so a digit is the integer part of three times the fraction that is left.
struct TQ1_0 {
  static constexpr int kElements = 256, kBytes = 54;
  static void decode(const uint8_t* b, float* out) {
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
  static void decode(const uint8_t* b, float* out) {
    const float d = load_f16(b + 64);
    for (int part = 0; part < 8; ++part)
      for (int l = 0; l < 32; ++l) out[32 * part + l] = static_cast<float>((b[32 * (part / 4) + l] >> (part % 4 * 2) & 3) - 1) * d;
  }
};

}  // namespace tenon::gguf
