// AdamW with block-wise 8-bit moments, one block at a time in double with a search over the whole book: the oracle of
// the tests.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "sdk/dynamic_map.h"

namespace tenon::reference {

struct AdamW8 {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, lambda = 1e-2;
  size_t B = 256;
  std::vector<uint8_t> C1, C2;
  std::vector<float> A1, A2;

  explicit AdamW8(size_t n, size_t block = 256) : B(block), C1(n), C2(n), A1((n + block - 1) / block), A2(A1.size()) {}

  static uint8_t nearest(const sdk::DynamicBook& book, double x) {
    int best = 0;
    for (int i = 1; i < 256; ++i)
      if (std::abs(book.value[i] - x) < std::abs(book.value[best] - x)) best = i;
    return static_cast<uint8_t>(best);
  }

  // theta after update t (from 1) with gradients g and rate eta.
  void step(std::vector<double>& theta, const std::vector<float>& g, double eta, long t) {
    const sdk::DynamicBook &q1 = sdk::kDynamicSigned, &q2 = sdk::kDynamicUnsigned;
    const double c1 = 1 - std::pow(beta1, t), c2 = 1 - std::pow(beta2, t);
    std::vector<double> m(B), v(B);
    for (size_t b = 0; b < A1.size(); ++b) {
      const size_t begin = b * B, n = std::min(B, theta.size() - begin);
      double a1 = 0, a2 = 0;
      for (size_t i = 0; i < n; ++i) {
        const size_t e = begin + i;
        m[i] = v[i] = 0;
        if (!std::isfinite(g[e])) continue;
        m[i] = beta1 * q1.value[C1[e]] * A1[b] + (1 - beta1) * g[e];
        v[i] = beta2 * q2.value[C2[e]] * A2[b] + (1 - beta2) * g[e] * g[e];
        const double denominator = std::sqrt(v[i] / c2) + epsilon;
        if (denominator > 0) theta[e] -= eta * m[i] / c1 / denominator;
        theta[e] *= 1 - eta * lambda;
        a1 = std::max(a1, std::abs(m[i])), a2 = std::max(a2, v[i]);
      }
      A1[b] = static_cast<float>(a1), A2[b] = static_cast<float>(a2);
      for (size_t i = 0; i < n; ++i) {
        C1[begin + i] = nearest(q1, a1 > 0 ? m[i] / a1 : 0), C2[begin + i] = nearest(q2, a2 > 0 ? v[i] / a2 : 0);
        if (m[i] < 0 && q1.value[C1[begin + i]] == 0) --C1[begin + i];
      }
    }
  }
};

}  // namespace tenon::reference
