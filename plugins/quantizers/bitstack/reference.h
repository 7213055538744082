// The method in plain code and f64: what the fast path is held to.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace tenon::bitstack::reference {

// Σ of the k largest eigenvalues of AᵀA, by Jacobi's rotations: the most energy of a[m, n] that rank k can hold.
inline double largest_energy(const std::vector<double>& a, int64_t m, int64_t n, int64_t k) {
  std::vector<double> s(n * n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t r = 0; r < m; ++r) s[i * n + j] += a[r * n + i] * a[r * n + j];
  for (int sweep = 0; sweep < 30; ++sweep)
    for (int64_t p = 0; p < n; ++p)
      for (int64_t q = p + 1; q < n; ++q) {
        const double off = s[p * n + q];
        if (std::fabs(off) < 1e-14 * (std::fabs(s[p * n + p]) + std::fabs(s[q * n + q]))) continue;
        const double theta = (s[q * n + q] - s[p * n + p]) / (2 * off);
        const double t = (theta >= 0 ? 1 : -1) / (std::fabs(theta) + std::sqrt(theta * theta + 1)), c = 1 / std::sqrt(t * t + 1), d = t * c;
        for (int64_t i = 0; i < n; ++i) {
          const double x = s[i * n + p], y = s[i * n + q];
          s[i * n + p] = c * x - d * y, s[i * n + q] = d * x + c * y;
        }
        for (int64_t i = 0; i < n; ++i) {
          const double x = s[p * n + i], y = s[q * n + i];
          s[p * n + i] = c * x - d * y, s[q * n + i] = d * x + c * y;
        }
      }
  std::vector<double> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(s[i * n + i]);
  std::sort(values.rbegin(), values.rend());
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
