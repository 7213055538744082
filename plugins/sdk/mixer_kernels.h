// What kernels of mixers share: gates, starting values, sums of parts.
#pragma once

#include "sdk/dtype.h"
#include "sdk/philox.h"
#include "sdk/vector_math.h"

namespace tenon::sdk {

TN_FN float sigmoid(float x) { return 1.0f / (1.0f + vexp(-x)); }
TN_FN float silu(float x) { return x * sigmoid(x); }
TN_FN float silu_slope(float x) {
  const float s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

// Normal numbers of a standard deviation, in f32 or bf16.
struct FillNormal {
  tn_rng rng;
  float deviation;
  void* to;
  bool narrow;
  TN_FN void operator()(int64_t i) const {
    const float x = deviation * normal(rng, static_cast<uint64_t>(i));
    if (narrow)
      static_cast<bf16*>(to)[i] = from_float<bf16>(x);
    else
      static_cast<float*>(to)[i] = x;
  }
};
// Every `period`-th number is 1, from period − 1 on; the others are 0.
struct FillLast {
  int64_t period;
  float* to;
  TN_FN void operator()(int64_t i) const { to[i] = i % period == period - 1 ? 1.0f : 0.0f; }
};

// to[i] += Σ over blocks of parts[block, i].
struct AddParts {
  const float* parts;
  int64_t blocks, width;
  float* to;
  TN_FN void operator()(int64_t i) const {
    float sum = 0;
    for (int64_t b = 0; b < blocks; ++b) sum += parts[b * width + i];
    to[i] += sum;
  }
};

}  // namespace tenon::sdk
