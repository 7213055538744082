// Starting values of thin factors.
#pragma once

#include <cmath>

#include "sdk/adapter/lora_config.h"
#include "sdk/for_each.h"
#include "sdk/philox.h"
#include "sdk/tensor.h"

namespace tenon::sdk {

// Uniform in ±1/√fan_in: what Kaiming-uniform with a negative slope of √5 comes to.
inline void fill_kaiming(const tn_exec* exec, const tn_rng& rng, int64_t fan_in, float* w, int64_t n) {
  const float bound = 1.0f / std::sqrt(static_cast<float>(fan_in));
  for_each(exec, n, [=] TN_KERNEL(int64_t i) { w[i] = bound * (2 * uniform(rng, i) - 1); });
}
inline void fill_normal(const tn_exec* exec, const tn_rng& rng, float deviation, float* w, int64_t n) {
  for_each(exec, n, [=] TN_KERNEL(int64_t i) { w[i] = deviation * normal(rng, i); });
}
inline void fill_constant(const tn_exec* exec, float value, float* w, int64_t n) {
  for_each(exec, n, [=] TN_KERNEL(int64_t i) { w[i] = value; });
}

// A (is_a) or B, or a bias beside B, as LoRA starts them.
inline void init_factor(const tn_exec* exec, const tn_rng& rng, LoraInit init, bool is_a, int64_t rank, int64_t columns, float* w, int64_t n) {
  if (!is_a && init != LoraInit::kBothKaiming) return fill_constant(exec, 0, w, n);
  if (is_a && init == LoraInit::kGaussian) return fill_normal(exec, rng, 1.0f / static_cast<float>(rank), w, n);
  fill_kaiming(exec, rng, is_a ? columns : rank, w, n);
}

}  // namespace tenon::sdk
