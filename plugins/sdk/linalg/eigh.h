// Eigenvalues and eigenvectors of a symmetric matrix in f64: Householder tridiagonalisation, then implicit QL with
// Wilkinson's shift (Golub and Van Loan, chapter 8). Rotations are collected over several sweeps and applied to blocks of columns that stay in
// cache, in parallel, and only the eigenvectors that are wanted go back through the reflections.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "sdk/linalg/tridiagonal.h"

namespace tenon::sdk {

namespace eigen {

inline constexpr int64_t kTurned = 32;  // columns that are rotated together
inline constexpr int64_t kSweeps = 32;  // whose rotations are collected
constexpr int64_t turned_blocks(int64_t n) { return (n + kTurned - 1) / kTurned; }

// Rotations of the rows of z: those of a sweep turn rows k + 1 and k for k from high − 1 down to low. z lies in blocks of kTurned columns,
// [block][row][column].
struct Rotations {
  double *z, *c, *s;  // c, s: [kSweeps, n]
  int64_t n, sweeps = 0;
  int64_t low[kSweeps] = {}, high[kSweeps] = {};

  void next(int64_t from, int64_t to) {
    low[sweeps] = from, high[sweeps] = to;
    if (++sweeps == kSweeps) apply();
  }
  void apply() {
    for_each_host_block(turned_blocks(n), [*this](const auto& block) {
      constexpr int64_t kL = kTurned / lanes::kLanes;
      double* const columns = z + block.index * n * kTurned;
      for (int64_t q = 0; q < sweeps; ++q) {
        if (low[q] >= high[q]) continue;
        const double *cosines = c + q * n, *sines = s + q * n;
        lanes::Lane carried[kL];
        __builtin_memcpy(carried, columns + high[q] * kTurned, sizeof carried);
        for (int64_t k = high[q] - 1; k >= low[q]; --k) {
          double* const row = columns + k * kTurned;
          const double cosine = cosines[k], sine = sines[k];
#pragma GCC unroll 8
          for (int64_t i = 0; i < kL; ++i) {
            const lanes::Lane upper = lanes::load(row + i * lanes::kLanes), turned = sine * upper + cosine * carried[i];
            __builtin_memcpy(row + kTurned + i * lanes::kLanes, &turned, sizeof turned);
            carried[i] = cosine * upper - sine * carried[i];
          }
        }
        __builtin_memcpy(columns + low[q] * kTurned, carried, sizeof carried);
      }
    }, grain(sweeps * n * kTurned / 2));
    sweeps = 0;
  }
};

// Diagonalises T; the rows of turns.z (identity at first) become T's eigenvectors. False: no convergence (NaN).
inline bool diagonalize(double* d, double* e, int64_t n, Rotations& turns) {
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
      double sine = 1, cosine = 1, p = 0, *const c = turns.c + turns.sweeps * n, *const s = turns.s + turns.sweeps * n;
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
      turns.next(i + 1, m);
      if (i >= l) continue;  // split: once more
      d[l] -= p, e[l] = g, e[m] = 0;
    }
  }
  turns.apply();
  return true;
}

}  // namespace eigen

// Scratch of eigh: this many doubles.
constexpr int64_t eigh_scratch(int64_t n) {
  return n * eigen::turned_blocks(n) * eigen::kTurned + (3 + 2 * eigen::kSweeps) * n + eigen::kReflections * eigen::kReflections;
}

// eigh of matrices in the host's memory.
inline bool eigh_on_host(double* a, int64_t n, int64_t k, double* values, double* vectors, double* scratch, int64_t* order) {
  using namespace eigen;
  const int64_t wide = turned_blocks(n) * kTurned;
  double *z = scratch, *d = z + n * wide, *e = d + n, *tau = e + n, *w = tau + n, *t = w + 2 * kSweeps * n;
  static_assert(kReflections <= 2 * kSweeps);
  tridiagonalize(a, n, d, e, tau, w);
  std::fill(z, z + n * wide, 0.0);
  const auto at = [=](int64_t row, int64_t column) { return (column / kTurned * n + row) * kTurned + column % kTurned; };
  for (int64_t i = 0; i < n; ++i) z[at(i, i)] = 1;
  Rotations turns{z, w, w + kSweeps * n, n};
  if (!diagonalize(d, e, n, turns)) return false;
  std::iota(order, order + n, int64_t{0});
  std::stable_sort(order, order + n, [=](int64_t x, int64_t y) { return d[x] > d[y]; });
  for_each_host_block(k, [=](const auto& block) {
    const int64_t i = block.index;
    values[i] = d[order[i]];
    for (int64_t j = 0; j < n; j += kTurned) std::copy_n(z + at(order[i], j), std::min(kTurned, n - j), vectors + i * n + j);
  }, n);
  reflect(a, n, tau, vectors, k, t);
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
