// Gradients with the spectrum of real ones.
#pragma once

#include "sdk/testing/statistics.h"

namespace tenon::sdk::testing {

// Σ_k decay^k a_k b_kᵀ, a few directions that a gradient has, turning slowly with `turn`.
inline std::vector<float> gradient(size_t m, size_t n, size_t directions, double decay, double turn = 0,
                                   uint32_t seed = 50) {
  const std::vector<float> a = normals(m * directions, seed), b = normals(n * directions, seed + 1),
                           a2 = normals(m * directions, seed + 2);
  std::vector<float> g(m * n);
  for (size_t i = 0; i < m; ++i)
    for (size_t j = 0; j < n; ++j) {
      double s = 0, weight = 1;
      for (size_t k = 0; k < directions; ++k, weight *= decay)
        s += weight * (a[i * directions + k] + turn * a2[i * directions + k]) * b[j * directions + k];
      g[i * n + j] = static_cast<float>(s / 8);
    }
  return g;
}

}  // namespace tenon::sdk::testing
