// Which channels share a grid, and the grid that follows from their range.
#pragma once

#include <algorithm>
#include <bit>

#include "sdk/intrinsics.h"

#include "sdk/codec.h"

namespace tenon::mesa {

// x [rows, channels], channels cut into equal groups (the last may be narrower).
struct Shape {
  int64_t rows = 1, channels = 1, groups = 1, width = 1;

  Shape(int64_t rows, int64_t channels, int64_t heads, int64_t group) : rows(rows), channels(channels) {
    groups = heads > 0 ? heads : sdk::ceil_div(channels, group);
    width = groups > 0 ? sdk::ceil_div(channels, groups) : 1;
    groups = width > 0 ? sdk::ceil_div(channels, width) : 0;
  }
  int64_t count() const { return rows * channels; }
};

// Value of code q: (q − zero) · step + base. Where 0 lies within the range it is a point of the grid (base 0, an integer `zero`), so that 0
// comes back as 0; elsewhere base is the range's lower end. A range without width is its lower end alone.
struct Grid {
  float base, zero, step;
};
inline constexpr int kGridFloats = 3;

TN_FN Grid grid_of(float lo, float hi) {
  const float width = hi - lo;
  if (!(width > 0)) return {lo, 0, 0};
  if (lo > 0 || hi < 0) return {lo, 0, width / 255.0f};
  const float step = width / 254.0f;  // one step is left for moving the grid onto 0
  if (!(step > 1.17549435e-38f)) return {0, 0, 0};
  const float below = -lo / step, whole = static_cast<float>(static_cast<int32_t>(below));
  return {0, whole < below ? whole + 1.0f : whole, step};
}

// floor of the place on the grid plus u in [0, 1), within 0 … 255.
TN_FN uint8_t code_of(const Grid& g, float inverse, float x, float u) {
  // Numbers that are not negative order as their bits do, and bits of others are negative.
  const int32_t t = std::bit_cast<int32_t>((x - g.base) * inverse + g.zero + u), lower = t > 0 ? t : 0;
  constexpr int32_t kMost = std::bit_cast<int32_t>(255.0f);
  return static_cast<uint8_t>(static_cast<int32_t>(std::bit_cast<float>(lower < kMost ? lower : kMost)));
}
TN_FN float inverse_of(const Grid& g) { return g.step > 0 ? 1.0f / g.step : 0.0f; }
TN_FN float value_of(const Grid& g, uint8_t q) { return (static_cast<float>(q) - g.zero) * g.step + g.base; }

}  // namespace tenon::mesa
