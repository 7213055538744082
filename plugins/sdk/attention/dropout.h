// Attention dropout: the keep mask is a function of (rng, batch entry, head, query position, key position), so any way
// of cutting a call into tiles, slices or partial calls drops the same weights.
//
// Positions are the global ones. With a segment list the index of the segment stands for the batch entry. A probability
// is rounded to 1/65536 and the survivors are scaled by the rounded one, so the expectation is exact.
#pragma once

#include "sdk/philox.h"

namespace tenon::sdk {

struct Dropout {
  uint32_t threshold = 0;  // of 65536; 0 = off
  float scale = 1;         // 1 / (1 − p)
};

inline Dropout make_dropout(double p) {
  if (!(p >= 0 && p < 1)) fail(TN_E_ARGUMENT, "attention dropout must be in [0, 1)");
  const long rounded = std::lround(p * 65536);
  const uint32_t threshold = static_cast<uint32_t>(rounded > 65535 ? 65535 : rounded);
  return {threshold, 65536.0f / static_cast<float>(65536 - threshold)};
}

// `head` counts over all ranks.
TN_FN tn_rng dropout_key(tn_rng rng, uint64_t batch, uint64_t head) {
  rng.seed += 0x9E3779B97F4A7C15u * (batch + 1) + 0xD1B54A32D192ED03u * (head + 1);
  return rng;
}

TN_FN uint64_t dropout_element(int64_t i, int64_t j) {
  return static_cast<uint64_t>(i) << 32 | (static_cast<uint64_t>(j) & 0xffffffffu);
}

// The factor of one weight: 0 or 1 / (1 − p).
TN_FN float keep_factor(const Dropout& d, const tn_rng& key, int64_t i, int64_t j) {
  return noise16(key, dropout_element(i, j)) < d.threshold ? 0.0f : d.scale;
}

// Factors of keys [j, j + n) of one query; one Philox block serves eight keys.
inline void keep_factors(const Dropout& d, const tn_rng& key, int64_t i, int64_t j, int64_t n, float* out) {
  Words words{};
  uint64_t held = ~uint64_t{0};
  for (int64_t c = 0; c < n; ++c) {
    const uint64_t e = dropout_element(i, j + c);
    if (e >> 3 != held) words = philox(key, held = e >> 3);
    const uint32_t half = e & 7;
    out[c] = (words.w[half >> 1] >> (16 * (half & 1)) & 0xffffu) < d.threshold ? 0.0f : d.scale;
  }
}

}  // namespace tenon::sdk
