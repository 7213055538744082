// The grid of one group while it is trained: ŵ = (clamp(rne(w / s') + z', 0, 2^b − 1) − z') · s', with s' = clamp(s, 1e-4, 1e4) and
// z' = clamp(rne(z), 0, 2^b − 1). Roundings and the clamps of s and z are the identity to the gradient; the clamp of the code is not.
#pragma once

#include <cmath>

#include "sdk/for_each.h"

namespace tenon::efficientqat {

inline constexpr float kLeastScale = 1e-4f, kLargestScale = 1e4f;

TN_FN float within(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

struct Grid {
  float scale, zero, top;

  TN_FN Grid(float s, float z, float top) : scale(within(s, kLeastScale, kLargestScale)), zero(within(std::nearbyint(z), 0, top)), top(top) {}
  // Of the range of w[0, n), which the threads of a block look at together. A zero point is a code, so a group whose values all have one sign
  // (few values, or equal ones) begins at zero.
  static TN_FN Grid of(const sdk::Block& block, const float* w, int64_t n, float top) {
    const sdk::Block::Pair ends = block.max2(n, {0, 0}, [=](int64_t j) { return sdk::Block::Pair{-w[j], w[j]}; });
    const float s = within((ends.second + ends.first) / top, kLeastScale, kLargestScale);
    return {s, std::nearbyint(ends.first / s), top};
  }
  TN_FN float unclamped(float w) const { return std::nearbyint(w / scale) + zero; }
  TN_FN float code(float w) const { return within(unclamped(w), 0, top); }
  TN_FN float value(float w) const { return (code(w) - zero) * scale; }
  // What the gradient g of value(w) comes to. Returns that of w.
  TN_FN float gradient(float w, float g, float& ds, float& dz) const {
    const float t = unclamped(w);
    const bool inside = t >= 0 && t <= top;
    ds += g * (inside ? t - zero - w / scale : within(t, 0, top) - zero);
    dz += inside ? 0.0f : -g * scale;
    return inside ? g : 0.0f;
  }
};

}  // namespace tenon::efficientqat
