// The arithmetic of Adam's update; what it means stands in adam.h.
#pragma once

#include <cmath>

#include "sdk/step.h"

namespace tenon::sdk {

struct AdamSettings {
  double beta1, beta2, eps, weight_decay;
  bool hf = false, decay_first = true;
};

// The numbers of one update; its step is lr · direction. Computed in double: β^t in f32 drifts.
struct AdamNumbers : Step {
  float a1, a2;      // 1 − β1, 1 − β2
  float root, eps;   // denominator = root · √v + ε
  double direction;  // factor of m / denominator
  float grad_scale;

  AdamNumbers() = default;
  AdamNumbers(const AdamSettings& s, const tn_item& item) : AdamNumbers(s, item, item.t) {}
  // Where moments were reset: t counts the updates since then.
  AdamNumbers(const AdamSettings& s, const tn_item& item, int64_t updates) {
    const double t = static_cast<double>(updates);
    const double c1 = -std::expm1(t * std::log(s.beta1)), c2 = -std::expm1(t * std::log(s.beta2));
    a1 = static_cast<float>(1 - s.beta1), a2 = static_cast<float>(1 - s.beta2);
    root = s.hf ? 1.0f : static_cast<float>(1 / std::sqrt(c2));
    eps = static_cast<float>(s.eps);
    direction = (s.hf ? std::sqrt(c2) : 1.0) / c1;
    step = static_cast<float>(item.lr * direction);
    decay = static_cast<float>(item.lr * s.weight_decay * item.decay_scale), after = s.decay_first ? 0.0f : 1.0f;
    grad_scale = static_cast<float>(item.grad_scale);
  }
};

// m ← (1 − a) m + a g with one rounding per term: for a = 1 exactly g, and (1 − a) is as exact as a.
TN_FN float decayed(float a, float old, float fresh) {
  return std::fma(a, fresh, std::fma(-a, old, old));
}

// m / (root · √v + ε); 0 where a zero ε meets a zero v.
TN_FN float adam_ratio(const AdamNumbers& a, float m, float v) {
  const float d = std::fma(std::sqrt(v), a.root, a.eps);
  return m / (d > 0 ? d : __builtin_inff());
}

}  // namespace tenon::sdk
