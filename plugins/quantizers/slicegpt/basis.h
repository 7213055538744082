// Orthonormal bases of the residual stream, in f64, on the host.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "sdk/linalg/eigh.h"
#include "sdk/philox.h"

namespace tenon::slicegpt {

// Scratch of principal_directions, in doubles (and n int64 for the order).
constexpr int64_t directions_scratch(int64_t n) { return n * n + sdk::eigh_scratch(n); }

// rows[k, n]: the k directions in which Σ x xᵀ = gram[n, n] (f32, symmetric) is largest, best first; values[k]: how large. The reference adds 1% of the
// mean of the diagonal to it, which moves every eigenvalue alike and no direction, and is left out. False: gram holds NaN or Inf.
inline bool principal_directions(const float* gram, int64_t n, int64_t k, double* values, double* rows, double* scratch,
                                 int64_t* order) {
  double* const a = scratch;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      a[i * n + j] = 0.5 * (double{gram[i * n + j]} + gram[j * n + i]);
      if (!std::isfinite(a[i * n + j])) return false;
    }
  return sdk::eigh_on_host(a, n, k, values, rows, scratch + n * n, order);
}

// rows[k, n]: k random orthonormal rows: normal numbers, made orthogonal one after the other, twice each.
inline void random_directions(const tn_rng& key, int64_t n, int64_t k, double* rows) {
  for (int64_t i = 0; i < k * n; ++i) rows[i] = sdk::normal(key, i);
  for (int64_t i = 0; i < k; ++i) {
    double* const row = rows + i * n;
    for (int pass = 0; pass < 2; ++pass)
      for (int64_t p = 0; p < i; ++p) {
        const double* const before = rows + p * n;
        const double f = sdk::eigen::dot(row, before, n);
        for (int64_t j = 0; j < n; ++j) row[j] -= f * before[j];
      }
    const double length = std::sqrt(sdk::eigen::dot(row, row, n));
    for (int64_t j = 0; j < n; ++j) row[j] /= length;
  }
}

// rows[k, n] ← turn[k, k] · rows: the same space, other axes. scratch: k doubles.
inline void turn_within(const double* turn, int64_t k, int64_t n, double* rows, double* scratch) {
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < k; ++i) {
      double s = 0;
      for (int64_t p = 0; p < k; ++p) s += turn[i * k + p] * rows[p * n + j];
      scratch[i] = s;
    }
    for (int64_t i = 0; i < k; ++i) rows[i * n + j] = scratch[i];
  }
}

}  // namespace tenon::slicegpt
