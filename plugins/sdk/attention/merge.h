// The merge of partial attention results over disjoint key sets: m = max(L1, L2), w = exp(L − m), O = (w1 O1 + w2 O2) /
// (w1 + w2), L = m + log(w1 + w2). Nothing seen on both sides stays O = 0, L = −inf.
#pragma once

#include <cmath>
#include <cstdint>

#include "sdk/base.h"

namespace tenon::sdk {

struct MergeWeights {
  float first, second, lse;
};

TN_FN MergeWeights merge_weights(float l1, float l2) {
  const float m = l1 > l2 ? l1 : l2;
  if (m == -INFINITY) return {0.0f, 0.0f, -INFINITY};
  const float w1 = std::exp(l1 - m), w2 = std::exp(l2 - m), sum = w1 + w2;
  return {w1 / sum, w2 / sum, m + std::log(sum)};
}

// Merges one row of width e into (o, lse).
TN_FN void merge_row(float* o, float& lse, const float* other, float other_lse, int64_t e) {
  const MergeWeights w = merge_weights(lse, other_lse);
  for (int64_t c = 0; c < e; ++c) o[c] = w.first * o[c] + w.second * other[c];
  lse = w.lse;
}

}  // namespace tenon::sdk
