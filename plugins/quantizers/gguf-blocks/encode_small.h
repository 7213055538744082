// Encoding of the 32-element blocks by the reference's rounding: codes come from the scale before it is rounded to f16.
#pragma once

#include <cmath>

#include "quantizers/gguf-blocks/search.h"
#include "quantizers/gguf-blocks/small_blocks.h"

namespace tenon::gguf {

// 1/d; 0 for a block so small that its scale vanishes: all its codes then stand for 0.
TN_LARGE_FN float inverse(float d) {
  const float i = 1.0f / d;
  return std::isfinite(i) ? i : 0.0f;
}

TN_LARGE_FN void pack_nibbles(const uint8_t* q, uint8_t* out) {
  for (int j = 0; j < 16; ++j) out[j] = static_cast<uint8_t>((q[j] & 15) | q[j + 16] << 4);
}
TN_LARGE_FN void pack_fifth_bits(const uint8_t* q, uint8_t* out) {
  uint32_t high = 0;
  for (int j = 0; j < 32; ++j) high |= static_cast<uint32_t>(q[j] >> 4) << j;
  store16(out, static_cast<uint16_t>(high)), store16(out + 2, static_cast<uint16_t>(high >> 16));
}

// Codes 0 … levels of (x - origin)·inverse + offset, truncated.
TN_LARGE_FN void truncate_codes(const float* x, float origin, float inverse, float offset, int levels, uint8_t* q) {
  for (int j = 0; j < 32; ++j) {
    const int code = static_cast<int>((x[j] - origin) * inverse + offset);
    q[j] = static_cast<uint8_t>(code < levels ? code : levels);
  }
}

// Signed scale: the element of largest magnitude takes the lowest code.
TN_LARGE_FN float encode_symmetric(const float* x, int half, uint8_t* q) {
  const float d = signed_extreme(x, 32) / static_cast<float>(-half);
  truncate_codes(x, 0, inverse(d), static_cast<float>(half) + 0.5f, 2 * half - 1, q);
  return d;
}

struct ScaleAndMin {
  float scale, min;
};
TN_LARGE_FN ScaleAndMin encode_affine(const float* x, int levels, uint8_t* q) {
  float low = x[0], high = x[0];
  for (int j = 1; j < 32; ++j) low = x[j] < low ? x[j] : low, high = x[j] > high ? x[j] : high;
  const float d = (high - low) / static_cast<float>(levels);
  truncate_codes(x, low, inverse(d), 0.5f, levels, q);
  return {d, low};
}

TN_LARGE_FN void encode_block(Q4_0, const float* x, uint8_t* out) {
  uint8_t q[32];
  store_f16(out, encode_symmetric(x, 8, q));
  pack_nibbles(q, out + 2);
}

TN_LARGE_FN void encode_block(Q4_1, const float* x, uint8_t* out) {
  uint8_t q[32];
  const ScaleAndMin a = encode_affine(x, 15, q);
  store_f16(out, a.scale), store_f16(out + 2, a.min);
  pack_nibbles(q, out + 4);
}

TN_LARGE_FN void encode_block(Q5_0, const float* x, uint8_t* out) {
  uint8_t q[32];
  store_f16(out, encode_symmetric(x, 16, q));
  pack_fifth_bits(q, out + 2), pack_nibbles(q, out + 6);
}

TN_LARGE_FN void encode_block(Q5_1, const float* x, uint8_t* out) {
  uint8_t q[32];
  const ScaleAndMin a = encode_affine(x, 31, q);
  store_f16(out, a.scale), store_f16(out + 2, a.min);
  pack_fifth_bits(q, out + 4), pack_nibbles(q, out + 8);
}

// Halves round away from zero.
TN_LARGE_FN void encode_block(Q8_0, const float* x, uint8_t* out) {
  const float d = std::fabs(signed_extreme(x, 32)) / 127, i = inverse(d);
  store_f16(out, d);
  for (int j = 0; j < 32; ++j) {
    const float t = x[j] * i, a = std::fabs(t), whole = std::floor(a), q = whole + std::floor(2 * (a - whole));
    out[2 + j] = static_cast<uint8_t>(static_cast<int8_t>(t < 0 ? -q : q));
  }
}

TN_LARGE_FN void encode_block(IQ4_NL, const float* x, uint8_t* out) {
  const float d = search_levels(x);
  store_f16(out, d);
  uint8_t q[32];
  level_codes(x, inverse(load_f16(out)), q);
  pack_nibbles(q, out + 2);
}

}  // namespace tenon::gguf
