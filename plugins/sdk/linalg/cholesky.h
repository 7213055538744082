// Small dense factorizations in f64, row-major.
#pragma once

#include <cmath>
#include <cstdint>

#include "sdk/linalg/on_host.h"
#include "sdk/linalg/tall.h"

namespace tenon::sdk {

// On the host. Replaces the symmetric s[n, n] by R⁻¹, R upper triangular with Rᵀ R = S, so that Y · R⁻¹ has orthonormal columns when
// S = Yᵀ Y. A column that depends on those before it (pivot below `tolerance` times its own square) becomes a zero
// column of R⁻¹. Returns the number of others. r: scratch [n, n].
inline int64_t inverse_cholesky(double* s, int64_t n, double* r, double tolerance = 1e-13) {
  int64_t rank = 0;
  // R row by row; a dependent column has a zero pivot.
  for (int64_t i = 0; i < n; ++i) {
    double* row = r + i * n;
    for (int64_t j = i; j < n; ++j) row[j] = s[i * n + j];
    for (int64_t p = 0; p < i; ++p) {
      const double f = r[p * n + i];
      if (f != 0)
        for (int64_t j = i; j < n; ++j) row[j] -= f * r[p * n + j];
    }
    if (row[i] > tolerance * s[i * n + i] && row[i] > 0) {
      const double inverse = 1 / std::sqrt(row[i]);
      for (int64_t j = i; j < n; ++j) row[j] *= inverse;
      ++rank;
    } else {
      for (int64_t j = i; j < n; ++j) row[j] = 0;
    }
  }
  // R⁻¹ from the last row up: row i = (e_i − Σ_{p>i} R[i, p] · row p) / R[i, i].
  for (int64_t i = n; i-- > 0;) {
    double* row = s + i * n;
    for (int64_t j = 0; j < n; ++j) row[j] = j == i;
    const double pivot = r[i * n + i];
    if (pivot == 0) {
      row[i] = 0;
      continue;
    }
    for (int64_t p = i + 1; p < n; ++p) {
      const double f = r[i * n + p];
      if (f != 0)
        for (int64_t j = p; j < n; ++j) row[j] -= f * s[p * n + j];
    }
    for (int64_t j = i; j < n; ++j) row[j] /= pivot;
  }
  // A dependent column must not leave through rows above it.
  for (int64_t j = 0; j < n; ++j)
    if (r[j * n + j] == 0)
      for (int64_t i = 0; i < j; ++i) s[i * n + j] = 0;
  return rank;
}

// q[rows, n] = an orthonormal basis of the columns of y; dependent columns become zero. s, r: scratch [n, n]. Returns
// the rank.
inline int64_t orthonormalize(const tn_exec* exec, const float* y, int64_t rows, int64_t n, float* q, double* s,
                              double* r) {
  gram(exec, y, rows, n, s);
  OnHost<double> small(exec, s, n * n), scratch = OnHost<double>::unread(exec, r, n * n);
  const int64_t rank = inverse_cholesky(small.data(), n, scratch.data());
  small.put_back();
  multiply(exec, y, rows, n, s, n, q);
  return rank;
}

}  // namespace tenon::sdk
