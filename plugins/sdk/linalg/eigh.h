// Eigenvalues and eigenvectors of a symmetric matrix in f64: Householder tridiagonalisation, then implicit QL with
// Wilkinson's shift (Golub and Van Loan, chapter 8). Rotations are collected per sweep and applied to columns in
// parallel, and only the eigenvectors that are wanted go back through the reflections.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "sdk/linalg/on_host.h"

namespace tenon::sdk {

namespace eigen {

// There is a parallel region for every column and every sweep: it must carry this many element updates to pay.
constexpr int64_t grain(int64_t updates) {
  return updates / 32;
}

inline double dot(const double* a, const double* b, int64_t n) {
  double s = 0;
#pragma omp simd reduction(+ : s)
  for (int64_t i = 0; i < n; ++i) s += a[i] * b[i];
  return s;
}

// A = Q T Qᵀ. On return d is T's diagonal, e[1 … n − 1] what is beside it, and row k of a holds, from k + 1 on, the
// k-th reflection I − tau[k] v vᵀ.
inline void tridiagonalize(double* a, int64_t n, double* d, double* e, double* tau, double* w) {
  for (int64_t k = 0; k + 1 < n; ++k) {
    const int64_t first = k + 1, m = n - first;
    double* v = a + k * n + first;  // row k = column k
    d[k] = a[k * n + k];
    const double tail = std::sqrt(dot(v + 1, v + 1, m - 1));
    if (tail == 0) {
      e[first] = v[0], tau[k] = 0;
      continue;
    }
    const double beta = v[0] > 0 ? -std::hypot(v[0], tail) : std::hypot(v[0], tail);
    const double pivot = v[0] - beta;
    tau[k] = -pivot / beta;
    e[first] = beta;
    for (int64_t i = 1; i < m; ++i) v[i] /= pivot;
    v[0] = 1;
    // w = tau A v − (tau²/2)(vᵀ A v) v; A ← A − v wᵀ − w vᵀ.
    const double t = tau[k];
    constexpr int64_t kRows = 32;
    const int64_t groups = (m + kRows - 1) / kRows;
    for_each_host_block(
        groups,
        [=](const auto& block) {
          for (int64_t i = block.index * kRows; i < std::min(m, (block.index + 1) * kRows); ++i)
            w[i] = t * dot(a + (first + i) * n + first, v, m);
        },
        grain(kRows * m));
    const double half = t / 2 * dot(w, v, m);
    for (int64_t i = 0; i < m; ++i) w[i] -= half * v[i];
    for_each_host_block(
        groups,
        [=](const auto& block) {
          for (int64_t i = block.index * kRows; i < std::min(m, (block.index + 1) * kRows); ++i) {
            double* row = a + (first + i) * n + first;
            const double vi = v[i], wi = w[i];
            block.each(m, [=](int64_t j) { row[j] -= vi * w[j] + wi * v[j]; });
          }
        },
        grain(kRows * m));
  }
  if (n > 0) d[n - 1] = a[n * n - 1], tau[n - 1] = 0, e[0] = 0;
}

// Diagonalises T; the rows of z (identity at first) become T's eigenvectors. False: no convergence (NaN).
inline bool diagonalize(double* d, double* e, int64_t n, double* z, double* c, double* s) {
  for (int64_t i = 1; i < n; ++i) e[i - 1] = e[i];
  if (n > 0) e[n - 1] = 0;
  double norm = 0;
  for (int64_t i = 0; i < n; ++i) norm = std::max(norm, std::abs(d[i]) + std::abs(e[i]));
  const double noise = 0x1p-56 * norm;  // below the rounding of the whole matrix: a null space must not be resolved
  for (int64_t l = 0; l < n; ++l) {
    for (int round = 0;; ++round) {
      int64_t m = l;
      for (; m + 1 < n; ++m)
        if (std::abs(e[m]) <= std::max(noise, 0x1p-53 * (std::abs(d[m]) + std::abs(d[m + 1])))) break;
      if (m == l) break;
      if (round == 80) return false;
      double g = (d[l + 1] - d[l]) / (2 * e[l]);
      double r = std::hypot(g, 1.0);
      g = d[m] - d[l] + e[l] / (g + std::copysign(r, g));
      double sine = 1, cosine = 1, p = 0;
      int64_t i = m - 1;
      for (; i >= l; --i) {
        const double f = sine * e[i], b = cosine * e[i];
        e[i + 1] = r = std::hypot(f, g);
        if (r == 0) {  // the matrix splits here
          d[i + 1] -= p, e[m] = 0;
          break;
        }
        sine = f / r, cosine = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * sine + 2 * cosine * b;
        d[i + 1] = g + (p = sine * r);
        g = cosine * r - b;
        c[i] = cosine, s[i] = sine;
      }
      const int64_t low = i + 1;  // rotations m − 1 … low
      constexpr int64_t kColumns = 64;
      for_each_host_block(
          (n + kColumns - 1) / kColumns,
          [=](const auto& block) {
            const int64_t at = block.index * kColumns, width = std::min(kColumns, n - at);
            for (int64_t k = m - 1; k >= low; --k) {
              double *upper = z + k * n + at, *lower = upper + n;
              const double ck = c[k], sk = s[k];
              block.each(width, [=](int64_t j) {
                const double f = lower[j];
                lower[j] = sk * upper[j] + ck * f;
                upper[j] = ck * upper[j] - sk * f;
              });
            }
          },
          grain(kColumns * (m - low)));
      if (i >= l) continue;  // split: once more
      d[l] -= p, e[l] = g, e[m] = 0;
    }
  }
  return true;
}

}  // namespace eigen

// Scratch of eigh: this many doubles.
constexpr int64_t eigh_scratch(int64_t n) {
  return n * n + 6 * n;
}

// eigh of matrices in the host's memory.
inline bool eigh_on_host(double* a, int64_t n, int64_t k, double* values, double* vectors, double* scratch, int64_t* order) {
  double *z = scratch, *d = z + n * n, *e = d + n, *tau = e + n, *w = tau + n, *c = w + n, *s = c + n;
  eigen::tridiagonalize(a, n, d, e, tau, w);
  std::fill(z, z + n * n, 0.0);
  for (int64_t i = 0; i < n; ++i) z[i * n + i] = 1;
  if (!eigen::diagonalize(d, e, n, z, c, s)) return false;
  std::iota(order, order + n, int64_t{0});
  std::stable_sort(order, order + n, [=](int64_t x, int64_t y) { return d[x] > d[y]; });
  for_each_host_block(
      k,
      [=](const auto& block) {
        const int64_t i = block.index;
        values[i] = d[order[i]];
        double* out = vectors + i * n;
        std::copy(z + order[i] * n, z + order[i] * n + n, out);
        for (int64_t j = n - 2; j >= 0; --j) {
          if (tau[j] == 0) continue;
          const double* v = a + j * n + j + 1;
          const double f = tau[j] * eigen::dot(v, out + j + 1, n - j - 1);
          double* to = out + j + 1;
          block.each(n - j - 1, [=](int64_t x) { to[x] -= f * v[x]; });
        }
      },
      eigen::grain(n * n));
  return std::isfinite(n > 0 ? values[0] : 0.0);
}

// The k largest eigenvalues of the symmetric a[n, n], which is overwritten, in falling order, and their eigenvectors as
// rows of vectors[k, n]. order: n int64. False where there is none: NaN in a. On a GPU everything is the device's except scratch and order,
// which are not used.
inline bool eigh(const tn_exec* exec, double* a, int64_t n, int64_t k, double* values, double* vectors, double* scratch,
                 int64_t* order) {
  OnHost<double> matrix(exec, a, n * n), first = OnHost<double>::unread(exec, values, k), rows = OnHost<double>::unread(exec, vectors, k * n),
                 room = OnHost<double>::unread(exec, scratch, eigh_scratch(n));
  OnHost<int64_t> places = OnHost<int64_t>::unread(exec, order, n);
  const bool found = eigh_on_host(matrix.data(), n, k, first.data(), rows.data(), room.data(), places.data());
  first.put_back(), rows.put_back();
  return found;
}

}  // namespace tenon::sdk
