// Tall, narrow f32 matrices against small f64 ones: Gram matrices and products with factors.
//
// A Gram matrix in f64 squares the condition number without losing it: the products of two f32 are exact. So one
// Cholesky pass orthonormalises whatever f32 can hold, where f32 arithmetic needs two passes or reflections. Results do
// not depend on the number of threads: every output is one sum in one order.
#pragma once

#include <cstdint>

#include "sdk/base.h"
#include "sdk/for_each.h"

namespace tenon::sdk {

#if TN_GPU

inline void gram(const tn_exec* exec, const float* y, int64_t rows, int64_t n, double* s) {
  for_each(exec, n * n, [=] TN_KERNEL(int64_t k) {
    const int64_t i = k / n, j = k % n;
    if (j < i) return;
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r) sum += static_cast<double>(y[r * n + i]) * y[r * n + j];
    s[i * n + j] = s[j * n + i] = sum;
  });
}
inline void multiply(const tn_exec* exec, const float* y, int64_t rows, int64_t n, const double* t, int64_t k, float* out) {
  for_each(exec, rows * k, [=] TN_KERNEL(int64_t at) {
    const float* const row = y + at / k * n;
    const double* const column = t + at % k;
    double sum = 0;
    for (int64_t p = 0; p < n; ++p) sum += static_cast<double>(row[p]) * column[p * k];
    out[at] = static_cast<float>(sum);
  });
}

#else

namespace tall {
#if defined(__AVX512F__)
inline constexpr int64_t kLanes = 8;
#else
inline constexpr int64_t kLanes = 4;
#endif
using Lane = double __attribute__((vector_size(kLanes * 8)));
using FloatLane = float __attribute__((vector_size(kLanes * 4)));
inline constexpr int64_t kTileRows = 6, kTileLanes = 2;  // 12 accumulators

TN_FN void widen(const float* p, Lane& out) {
  FloatLane x;
  __builtin_memcpy(&x, p, sizeof x);
  out = __builtin_convertvector(x, Lane);
}
}  // namespace tall

// s[n, n] = Yᵀ Y for y[rows, n] row-major.
inline void gram(const tn_exec* exec, const float* y, int64_t rows, int64_t n, double* s) {
  using namespace tall;
  constexpr int64_t kWide = kTileLanes * kLanes;
  const int64_t down = (n + kTileRows - 1) / kTileRows, across = (n + kWide - 1) / kWide;
  for_each_block(
      exec, down * across,
      [=](const Block& block) {
        const int64_t i0 = block.index / across * kTileRows, j0 = block.index % across * kWide;
        if (j0 + kWide <= i0) return;  // below the diagonal
        const int64_t ni = n - i0 < kTileRows ? n - i0 : kTileRows, nj = n - j0 < kWide ? n - j0 : kWide;
        double tile[kTileRows][kWide] = {};
        if (ni == kTileRows && nj == kWide) {
          Lane sum[kTileRows][kTileLanes] = {};
          for (int64_t r = 0; r < rows; ++r) {
            const float* row = y + r * n;
            Lane b0, b1;
            widen(row + j0, b0), widen(row + j0 + kLanes, b1);
#pragma GCC unroll 6
            for (int64_t i = 0; i < kTileRows; ++i) {
              const double a = row[i0 + i];
              sum[i][0] += a * b0, sum[i][1] += a * b1;
            }
          }
          __builtin_memcpy(tile, sum, sizeof tile);
        } else {
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = 0; i < ni; ++i)
              for (int64_t j = 0; j < nj; ++j) tile[i][j] += static_cast<double>(y[r * n + i0 + i]) * y[r * n + j0 + j];
        }
        for (int64_t i = 0; i < ni; ++i)
          for (int64_t j = 0; j < nj; ++j)
            if (j0 + j >= i0 + i) s[(i0 + i) * n + j0 + j] = s[(j0 + j) * n + i0 + i] = tile[i][j];
      },
      kTileRows * kWide * rows);
}

// out[rows, k] = Y · T for y[rows, n], t[n, k], all row-major; sums in f64. out must not be y.
inline void multiply(const tn_exec* exec, const float* y, int64_t rows, int64_t n, const double* t, int64_t k,
                     float* out) {
  using namespace tall;
  constexpr int64_t kWide = kTileLanes * kLanes;
  for_each_block(
      exec, (rows + kTileRows - 1) / kTileRows,
      [=](const Block& block) {
        const int64_t r0 = block.index * kTileRows, nr = rows - r0 < kTileRows ? rows - r0 : kTileRows;
        const float* from = y + r0 * n;
        for (int64_t j0 = 0; j0 < k; j0 += kWide) {
          const int64_t nj = k - j0 < kWide ? k - j0 : kWide;
          double tile[kTileRows][kWide] = {};
          if (nr == kTileRows && nj == kWide) {
            Lane sum[kTileRows][kTileLanes] = {};
            for (int64_t p = 0; p < n; ++p) {
              Lane b0, b1;
              __builtin_memcpy(&b0, t + p * k + j0, sizeof b0);
              __builtin_memcpy(&b1, t + p * k + j0 + kLanes, sizeof b1);
#pragma GCC unroll 6
              for (int64_t i = 0; i < kTileRows; ++i) {
                const double a = from[i * n + p];
                sum[i][0] += a * b0, sum[i][1] += a * b1;
              }
            }
            __builtin_memcpy(tile, sum, sizeof tile);
          } else {
            for (int64_t p = 0; p < n; ++p)
              for (int64_t i = 0; i < nr; ++i)
                for (int64_t j = 0; j < nj; ++j) tile[i][j] += static_cast<double>(from[i * n + p]) * t[p * k + j0 + j];
          }
          for (int64_t i = 0; i < nr; ++i)
            for (int64_t j = 0; j < nj; ++j) out[(r0 + i) * k + j0 + j] = static_cast<float>(tile[i][j]);
        }
      },
      kTileRows * n * k);
}

#endif

}  // namespace tenon::sdk
