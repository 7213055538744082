// The uniform grid of one group of weights: Q(w) = s · (clamp(rne(w / s) + z, 0, 2^b − 1) − z), with s rounded to f16, as it is stored,
// before anything is coded with it.
#pragma once

#include <cmath>

#include "sdk/dtype.h"
#include "sdk/for_each.h"

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
  TN_FN Grid(float s, float z) : zero(z), stored(sdk::from_float<sdk::f16>(s)) {
    scale = sdk::to_float(stored);
    // A range that f16 cannot hold: the smallest or largest step that it can.
    if (scale == 0) stored = {1}, scale = sdk::to_float(stored);
    if (scale > 65504) stored = {0x7bff}, scale = sdk::to_float(stored);
  }
  TN_FN float code(float w, float top) const {
    const float q = std::nearbyint(w / scale) + zero;
    return q < 0 ? 0 : q > top ? top : q;
  }
  TN_FN float value(float code) const { return scale * (code - zero); }
};

// Of a range [lo, hi] about 0, shrunk.
TN_FN Grid grid_of_range(float lo, float hi, float shrink, const GridOptions& o) {
  const float top = static_cast<float>((1 << o.bits) - 1), s = (hi - lo) * shrink / top;
  const Grid g(s, 0);  // the zero point belongs to the step as it is stored
  const float zero = std::nearbyint(-lo * shrink / g.scale);
  return Grid(s, o.symmetric ? static_cast<float>(1 << (o.bits - 1)) : zero < 0 ? 0 : zero > top ? top : zero);
}

// From the weights w[0, n) of a group, which the threads of a block look at together: all receive the same grid.
TN_FN Grid find_grid(const sdk::Block& block, const float* w, int64_t n, const GridOptions& o) {
  const sdk::Block::Pair ends = block.max2(n, {0, 0}, [=](int64_t i) { return sdk::Block::Pair{-w[i], w[i]}; });
  float lo = -ends.first, hi = ends.second;
  if (o.symmetric) {
    hi = -lo > hi ? -lo : hi;
    if (lo < 0) lo = -hi;
  }
  if (lo == 0 && hi == 0) lo = -1, hi = 1;
  Grid best = grid_of_range(lo, hi, 1, o);
  if (!o.search) return best;
  const float top = static_cast<float>((1 << o.bits) - 1);
  double least = __builtin_inf();
  for (int k = 0; k < 80; ++k) {
    const Grid g = grid_of_range(lo, hi, 1 - static_cast<float>(k) / 100, o);
    const double error = block.sum(n, [=](int64_t i) { return static_cast<double>(std::pow(std::fabs(w[i] - g.value(g.code(w[i], top))), 2.4f)); });
    if (error < least) least = error, best = g;
  }
  return best;
}

}  // namespace tenon::gptq
