// The reduction of a symmetric matrix to tridiagonal form by Householder reflections, and their application to vectors (Golub and Van Loan,
// chapter 8; Dongarra, Sorensen and Hammarling 1989), in f64 in the host's memory. By panels: what a panel's reflections do to the rest of
// the matrix, and what a block of reflections does to vectors, are products of matrices. Results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "sdk/linalg/host_products.h"

namespace tenon::sdk::eigen {

inline constexpr int64_t kReflections = 32;  // of a panel

// A parallel region must carry this many element updates to pay.
constexpr int64_t grain(int64_t updates) { return updates / 32; }

// A = Q T Qᵀ. On return d is T's diagonal, e[1 … n − 1] what is beside it, and row k of a holds, from k + 1 on, the
// k-th reflection I − tau[k] v vᵀ. w: scratch [kReflections, n].
inline void tridiagonalize(double* a, int64_t n, double* d, double* e, double* tau, double* w) {
  for (int64_t begin = 0; begin + 1 < n; begin += kReflections) {
    const int64_t width = std::min(kReflections, n - 1 - begin);
    for (int64_t j = 0; j < width; ++j) {
      const int64_t k = begin + j, first = k + 1, m = n - first;
      double *row = a + k * n, *v = row + first, *mine = w + j * n;  // row k = column k
      for (int64_t i = 0; i < j; ++i) {                              // what the panel has done to it so far
        const double *vi = a + (begin + i) * n, *wi = w + i * n, fv = vi[k], fw = wi[k];
        for (int64_t c = k; c < n; ++c) row[c] -= fv * wi[c] + fw * vi[c];
      }
      d[k] = row[k];
      const double tail = std::sqrt(dot(v + 1, v + 1, m - 1));
      if (tail == 0) {
        e[first] = v[0], tau[k] = 0;
        std::fill(mine, mine + n, 0.0);
        continue;
      }
      const double beta = v[0] > 0 ? -std::hypot(v[0], tail) : std::hypot(v[0], tail), pivot = v[0] - beta;
      tau[k] = -pivot / beta, e[first] = beta;
      for (int64_t i = 1; i < m; ++i) v[i] /= pivot;
      v[0] = 1;
      // w = tau A v − (tau²/2)(vᵀ A v) v for A as the panel has it: A₀ − Σ vᵢ wᵢᵀ + wᵢ vᵢᵀ.
      constexpr int64_t kRows = 32;
      for_each_host_block((m + kRows - 1) / kRows, [=](const auto& block) {
        const int64_t r0 = first + block.index * kRows;
        dots(a + r0 * n + first, n, std::min(kRows, n - r0), v, n, 1, m, mine + r0, 1);
      }, grain(kRows * m));
      for (int64_t i = 0; i < j; ++i) {
        const double *vi = a + (begin + i) * n, *wi = w + i * n;
        const double along_w = dot(wi + first, v, m), along_v = dot(vi + first, v, m);
        for (int64_t c = first; c < n; ++c) mine[c] -= along_w * vi[c] + along_v * wi[c];
      }
      const double half = tau[k] * tau[k] / 2 * dot(mine + first, v, m);
      for (int64_t c = first; c < n; ++c) mine[c] = tau[k] * mine[c] - half * row[c];
    }
    // A ← A − V Wᵀ − W Vᵀ.
    const int64_t first = begin + width, m = n - first;
    constexpr int64_t kRows = 16;
    for_each_host_block((m + kRows - 1) / kRows, [=](const auto& block) {
      const int64_t r0 = first + block.index * kRows, rows = std::min(kRows, n - r0);
      double* const to = a + r0 * n + first;
      subtract_products(to, n, rows, a + begin * n + r0, 1, n, w + first, n, width, m);
      subtract_products(to, n, rows, w + r0, 1, n, a + begin * n + first, n, width, m);
    }, grain(kRows * m));
  }
  if (n > 0) d[n - 1] = a[n * n - 1], tau[n - 1] = 0, e[0] = 0;
}

// Each of the k rows of `vectors` [k, n] ← Q · row, for the reflections that tridiagonalize left in a and tau; what a row of a holds before
// its reflection is lost. t: scratch [kReflections, kReflections].
inline void reflect(double* a, int64_t n, const double* tau, double* vectors, int64_t k, double* t) {
  constexpr int64_t kB = kReflections, kRows = 8;
  for (int64_t begin = n < 2 ? -1 : (n - 2) / kB * kB; begin >= 0; begin -= kB) {
    // A block's reflections together are I − V T Vᵀ.
    const int64_t width = std::min(kB, n - 1 - begin), m = n - begin - 1;
    double* const v = a + begin * n + begin + 1;
    for (int64_t i = 0; i < width; ++i) std::fill(v + i * n, v + i * n + i, 0.0);
    std::fill(t, t + kB * kB, 0.0);
    for (int64_t j = 0; j < width; ++j) {
      double along[kB] = {};
      for (int64_t p = 0; p < j; ++p) along[p] = dot(v + p * n + j, v + j * n + j, m - j);
      for (int64_t i = 0; i < j; ++i) {
        double sum = 0;
        for (int64_t p = i; p < j; ++p) sum += t[i * kB + p] * along[p];
        t[i * kB + j] = -tau[begin + j] * sum;
      }
      t[j * kB + j] = tau[begin + j];
    }
    for_each_host_block((k + kRows - 1) / kRows, [=](const auto& block) {
      const int64_t rows = std::min(kRows, k - block.index * kRows);
      double* const z = vectors + block.index * kRows * n + begin + 1;
      double seen[kRows * kB] = {}, turned[kRows * kB] = {};
      dots(z, n, rows, v, n, width, m, seen, kB);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < width; ++i)
          for (int64_t p = i; p < width; ++p) turned[r * kB + i] += t[i * kB + p] * seen[r * kB + p];
      subtract_products(z, n, rows, turned, kB, 1, v, n, width, m);
    }, grain(kRows * width * m));
  }
}

}  // namespace tenon::sdk::eigen
