// 4096 quantiles of the unit normal: table noise. The f32 bits are written down (tests/reference/normal_quantiles.py), so every backend
// holds the same; a test compares them with a golden sum. They come from polynomials, which noise_avx512.h evaluates instead.
#pragma once

#include "sdk/base.h"
#include "sdk/normal_quantiles.h"

namespace tenon::sdk {

// value[k] = quantile of (k + 1/2) / 4096 times 1.00016031, which makes the variance 1; within 1e-6.
struct NormalTable {
  float value[4096];
};
constexpr NormalTable make_normal_table() {
  NormalTable t{};
  for (int k = 0; k < 2048; ++k) t.value[2048 + k] = kUpperQuantiles[k], t.value[2047 - k] = -kUpperQuantiles[k];
  return t;
}
TN_TABLE(NormalTable, kNormalTable, make_normal_table());

// The table of the side that runs.
TN_FN const float* normal_table() { return TN_TABLE_OF(kNormalTable).value; }

}  // namespace tenon::sdk
