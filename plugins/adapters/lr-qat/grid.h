// The integer grid of LR-QAT: scales, the fixed-point copy of W/s, rounding and what it lets through.
#pragma once

#include <cmath>

#include "sdk/base.h"

namespace tenon::lr_qat {

struct Grid {
  int32_t bits;      // b: integers in [−2^(b−1), 2^(b−1) − 1]
  int64_t n, group;  // columns of a row, and of those that share a scale

  TN_FN float low() const { return -static_cast<float>(1 << (bits - 1)); }
  TN_FN float high() const { return static_cast<float>((1 << (bits - 1)) - 1); }
  TN_FN int64_t groups() const { return (n + group - 1) / group; }
  TN_FN float clamp(float z) const { return z < low() ? low() : z > high() ? high() : z; }
  // Half to even, as the exported codes are made.
  TN_FN float code(float z) const { return clamp(std::rint(z)); }
  // 1 where a gradient passes the rounding and the clamp.
  TN_FN float passes(float z) const {
    const float q = std::rint(z);
    return q >= low() && q <= high() ? 1.0f : 0.0f;
  }
  // W/s in 8 bits: b of them before the point.
  TN_FN float fraction() const { return 1.0f / static_cast<float>(1 << (8 - bits)); }
  TN_FN int8_t fixed(float z) const { return static_cast<int8_t>(std::rint(clamp(z) / fraction())); }

  // The scale of one group: of 80 shares of the largest magnitude the one with the least sum of fourth powers of the
  // error. Never 0.
  TN_FN float best_scale(const float* w, int64_t count) const {
    float most = 0;
    for (int64_t i = 0; i < count; ++i) most = std::fabs(w[i]) > most ? std::fabs(w[i]) : most;
    if (most == 0) return 1.0f;
    float best = most / high(), least = INFINITY;
    for (int k = 0; k < 80; ++k) {
      const float s = most / high() * (1.0f - 0.01f * static_cast<float>(k)), inverse = 1 / s;
      float error = 0;
      for (int64_t i = 0; i < count; ++i) {
        const float e = w[i] - s * code(w[i] * inverse);
        error += e * e * e * e;
      }
      if (error < least) least = error, best = s;
    }
    return best;
  }
};

}  // namespace tenon::lr_qat
