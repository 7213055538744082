// Small products of f64 matrices in the host's memory, whose rows are long: a few rows at a time in registers. They run inside a thread.
#pragma once

#include <cstdint>

#include "sdk/linalg/on_host.h"
#include "sdk/linalg/tall.h"

#if defined(__NVCC__)
#pragma nv_diag_suppress 1675  // it does not know the pragmas below, which are for the host's compiler
#elif !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are returned within one source only
#endif

namespace tenon::sdk::eigen {

inline double dot(const double* a, const double* b, int64_t n) {
  double s = 0;
#pragma omp simd reduction(+ : s)
  for (int64_t i = 0; i < n; ++i) s += a[i] * b[i];
  return s;
}

#if TN_GPU  // host code of a GPU object: plain loops
namespace lanes {
inline constexpr int64_t kRows = 1, kColumns = 1, kLanes = 1;
using Lane = double;
}  // namespace lanes
#else
namespace lanes {
using tall::kLanes;
using tall::Lane;
inline constexpr int64_t kRows = 4, kColumns = 2;  // of a tile: 8 accumulators and what feeds them
}  // namespace lanes
#endif

namespace lanes {
TN_FN Lane load(const double* p) {
  Lane x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
inline double sum(const Lane& x) {
  const double* const p = reinterpret_cast<const double*>(&x);
  double s = 0;
  for (int64_t i = 0; i < kLanes; ++i) s += p[i];
  return s;
}

// out(r, c) = x(r) · y(c) for kR rows of x and kC rows of y, all of length m.
template <int64_t kR, int64_t kC>
void dots(const double* x, int64_t ldx, const double* y, int64_t ldy, int64_t m, double* out, int64_t ldo) {
  Lane s[kR][kC] = {};
  int64_t i = 0;
  for (; i + kLanes <= m; i += kLanes) {
    Lane b[kC];
#pragma GCC unroll 4
    for (int64_t c = 0; c < kC; ++c) b[c] = load(y + c * ldy + i);
#pragma GCC unroll 4
    for (int64_t r = 0; r < kR; ++r) {
      const Lane a = load(x + r * ldx + i);
#pragma GCC unroll 4
      for (int64_t c = 0; c < kC; ++c) s[r][c] += a * b[c];
    }
  }
  for (int64_t r = 0; r < kR; ++r)
    for (int64_t c = 0; c < kC; ++c) {
      double all = sum(s[r][c]);
      for (int64_t at = i; at < m; ++at) all += x[r * ldx + at] * y[c * ldy + at];
      out[r * ldo + c] = all;
    }
}

// to(r, ·) −= Σ_i f(r, i) · x(i, ·) over m elements, for kR rows.
template <int64_t kR>
void subtract(double* to, int64_t ldt, const double* f, int64_t f_row, int64_t f_column, const double* x, int64_t ldx, int64_t count, int64_t m) {
  constexpr int64_t kWide = kColumns * kLanes;
  int64_t at = 0;
  for (; at + kWide <= m; at += kWide) {
    Lane s[kR][kColumns];
#pragma GCC unroll 4
    for (int64_t r = 0; r < kR; ++r)
#pragma GCC unroll 2
      for (int64_t c = 0; c < kColumns; ++c) s[r][c] = load(to + r * ldt + at + c * kLanes);
    for (int64_t i = 0; i < count; ++i) {
      Lane b[kColumns];
#pragma GCC unroll 2
      for (int64_t c = 0; c < kColumns; ++c) b[c] = load(x + i * ldx + at + c * kLanes);
#pragma GCC unroll 4
      for (int64_t r = 0; r < kR; ++r) {
        const double a = f[r * f_row + i * f_column];
#pragma GCC unroll 2
        for (int64_t c = 0; c < kColumns; ++c) s[r][c] -= a * b[c];
      }
    }
#pragma GCC unroll 4
    for (int64_t r = 0; r < kR; ++r)
#pragma GCC unroll 2
      for (int64_t c = 0; c < kColumns; ++c) __builtin_memcpy(to + r * ldt + at + c * kLanes, &s[r][c], sizeof(Lane));
  }
  for (int64_t r = 0; r < kR; ++r)
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = at; c < m; ++c) to[r * ldt + c] -= f[r * f_row + i * f_column] * x[i * ldx + c];
}
}  // namespace lanes

// out[rows, columns] = X Yᵀ for x[rows, m] and y[columns, m].
inline void dots(const double* x, int64_t ldx, int64_t rows, const double* y, int64_t ldy, int64_t columns, int64_t m, double* out, int64_t ldo) {
  using namespace lanes;
  for (int64_t r = 0; r < rows;) {
    const bool many = r + kRows <= rows;
    for (int64_t c = 0; c < columns;) {
      double* const to = out + r * ldo + c;
      const double *from = x + r * ldx, *with = y + c * ldy;
      const bool wide = c + kRows <= columns;
      if (many && wide)
        lanes::dots<kRows, kRows>(from, ldx, with, ldy, m, to, ldo);
      else if (many)
        lanes::dots<kRows, 1>(from, ldx, with, ldy, m, to, ldo);
      else if (wide)
        lanes::dots<1, kRows>(from, ldx, with, ldy, m, to, ldo);
      else
        lanes::dots<1, 1>(from, ldx, with, ldy, m, to, ldo);
      c += wide ? kRows : 1;
    }
    r += many ? kRows : 1;
  }
}

// to[rows, m] −= F X for x[count, m]; element (r, i) of F lies at f[r · f_row + i · f_column].
inline void subtract_products(double* to, int64_t ldt, int64_t rows, const double* f, int64_t f_row, int64_t f_column, const double* x, int64_t ldx,
                              int64_t count, int64_t m) {
  using namespace lanes;
  for (int64_t r = 0; r < rows;) {
    const bool many = r + kRows <= rows;
    if (many)
      subtract<kRows>(to + r * ldt, ldt, f + r * f_row, f_row, f_column, x, ldx, count, m);
    else
      subtract<1>(to + r * ldt, ldt, f + r * f_row, f_row, f_column, x, ldx, count, m);
    r += many ? kRows : 1;
  }
}

}  // namespace tenon::sdk::eigen
