// The method in plain code and f64: what the fast path is held to.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "sdk/testing/jacobi.h"

namespace tenon::bitstack::reference {

// Σ of the k largest eigenvalues of AᵀA, by Jacobi's rotations: the most energy of a[m, n] that rank k can hold.
inline double largest_energy(const std::vector<double>& a, int64_t m, int64_t n, int64_t k) {
  std::vector<double> s(n * n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t r = 0; r < m; ++r) s[i * n + j] += a[r * n + i] * a[r * n + j];
  const std::vector<double> values = sdk::testing::jacobi(std::move(s), n);
  double sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += values[i];
  return sum;
}

struct Components {
  std::vector<uint8_t> signs;      // [segments, m, ⌈n/8⌉], the first in the highest bit
  std::vector<float> u, v, columns;  // [segments, m, k], [segments, k, n], [n]
};

inline std::vector<double> decode(const Components& c, int64_t segments, int64_t m, int64_t n, int64_t k) {
  std::vector<double> w(m * n);
  const int64_t row = (n + 7) / 8;
  for (int64_t s = 0; s < segments; ++s)
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double magnitude = 0;
        for (int64_t r = 0; r < k; ++r) magnitude += static_cast<double>(c.u[(s * m + i) * k + r]) * c.v[(s * k + r) * n + j];
        const bool positive = c.signs[(s * m + i) * row + j / 8] >> (7 - j % 8) & 1;
        w[i * n + j] += (positive ? magnitude : -magnitude) * c.columns[j];
      }
  return w;
}

}  // namespace tenon::bitstack::reference
