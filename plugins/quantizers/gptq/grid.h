// The uniform grid of one group of weights: Q(w) = s · (clamp(rne(w / s) + z, 0, 2^b − 1) − z), with s rounded to f16, as it is stored,
// before anything is coded with it.
#pragma once

#include <cmath>

#include "sdk/dtype.h"

namespace tenon::gptq {

struct GridOptions {
  int bits = 4;
  bool symmetric = false;
  bool search = false;  // shrink the range to the p with the least Σ |w − Q(w)|^2.4
};

struct Grid {
  float scale = 1, zero = 0;
  sdk::f16 stored{};

  Grid() = default;
  Grid(float s, float z) : zero(z), stored(sdk::from_float<sdk::f16>(s)) {
    scale = sdk::to_float(stored);
    // A range that f16 cannot hold: the smallest or largest step that it can.
    if (scale == 0) stored = {1}, scale = sdk::to_float(stored);
    if (std::isinf(scale)) stored = {0x7bff}, scale = sdk::to_float(stored);
  }
  float code(float w, float top) const {
    const float q = std::nearbyint(w / scale) + zero;
    return q < 0 ? 0 : q > top ? top : q;
  }
  float value(float code) const { return scale * (code - zero); }
};

// From the weights w[0], w[stride], … of a group.
inline Grid find_grid(const float* w, int64_t n, const GridOptions& o) {
  const float top = static_cast<float>((1 << o.bits) - 1);
  float lo = 0, hi = 0;
  for (int64_t i = 0; i < n; ++i) lo = std::min(lo, w[i]), hi = std::max(hi, w[i]);
  if (o.symmetric) {
    hi = std::max(-lo, hi);
    if (lo < 0) lo = -hi;
  }
  if (lo == 0 && hi == 0) lo = -1, hi = 1;
  const auto make = [&](float shrink) {
    const float s = (hi - lo) * shrink / top;
    const Grid g(s, 0);  // the zero point belongs to the step as it is stored
    return Grid(s, o.symmetric ? static_cast<float>(1 << (o.bits - 1)) : std::min(top, std::max(0.0f, std::nearbyint(-lo * shrink / g.scale))));
  };
  Grid best = make(1);
  if (!o.search) return best;
  double least = INFINITY;
  for (int k = 0; k < 80; ++k) {
    const Grid g = make(1 - static_cast<float>(k) / 100);
    double error = 0;
    for (int64_t i = 0; i < n; ++i) error += std::pow(std::fabs(w[i] - g.value(g.code(w[i], top))), 2.4f);
    if (error < least) least = error, best = g;
  }
  return best;
}

}  // namespace tenon::gptq
