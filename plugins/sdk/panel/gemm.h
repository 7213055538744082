// C (+)= A · B over f32 panels: the register-blocked heart of the products in CPU attention kernels.
//
// A is row-major [m, k] (or its transpose, [k, m]) and read one number at a time; B comes in panels of kPanel columns,
// each [k, ldb]: a packed tile has ldb = kPanel, a row-major matrix is the case ldb = its width. One micro-kernel keeps
// 6 rows × kPanel columns of C in registers, so each load of B feeds 6 fused multiply-adds. n is a multiple of kLanes;
// m and k are free.
#pragma once

#include "sdk/panel/simd.h"

namespace tenon::sdk::panel {

struct Left {
  const float* data;
  int64_t stride;  // between rows as stored
};
struct Right {
  const float* data;
  int64_t stride;  // between rows of a panel
  int64_t panel;   // between panels
};
inline Right row_major(const float* b, int64_t width) {
  return {b, width, kPanel};
}
inline Right packed(const float* b, int64_t k) {
  return {b, kPanel, k * kPanel};
}

template <int M, int N, bool Transposed>
[[gnu::noinline]] void micro_kernel(int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                                    int64_t ldc, bool add) {
  Vec sum[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sum[m][n] = add ? load(c + m * ldc + n * kLanes) : Vec{};
  for (int64_t p = 0; p < k; ++p) {
    Vec row[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) row[n] = load(b + n * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Vec x = broadcast(Transposed ? a[m] : a[m * lda]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum[m][n] += x * row[n];
    }
    a += Transposed ? lda : 1;
    b += ldb;
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(c + m * ldc + n * kLanes, sum[m][n]);
}

using MicroKernel = void (*)(int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t, bool);

// Kernels [rows − 1][vectors − 1].
template <bool Transposed>
inline constexpr MicroKernel kKernels[kRows][kPanelVectors] = {
#if defined(__AVX512F__)
#define TENON_PANEL_ROW(m)                                                                          \
  {                                                                                                 \
    micro_kernel<m, 1, Transposed>, micro_kernel<m, 2, Transposed>, micro_kernel<m, 3, Transposed>, \
        micro_kernel<m, 4, Transposed>                                                              \
  }
#else
#define TENON_PANEL_ROW(m) \
  { micro_kernel<m, 1, Transposed>, micro_kernel<m, 2, Transposed> }
#endif
    TENON_PANEL_ROW(1), TENON_PANEL_ROW(2), TENON_PANEL_ROW(3),
    TENON_PANEL_ROW(4), TENON_PANEL_ROW(5), TENON_PANEL_ROW(6)};
#undef TENON_PANEL_ROW

template <bool Transposed>
inline void multiply(int64_t m, int64_t n, int64_t k, Left a, Right b, float* c, int64_t ldc, bool add) {
  for (int64_t column = 0; column < n; column += kPanel) {
    const int64_t vectors = (n - column < kPanel ? n - column : kPanel) / kLanes;
    const float* panel = b.data + column / kPanel * b.panel;
    for (int64_t row = 0; row < m; row += kRows) {
      const int64_t rows = m - row < kRows ? m - row : kRows;
      kKernels<Transposed>[rows - 1][vectors - 1](k, a.data + (Transposed ? row : row * a.stride), a.stride, panel,
                                                  b.stride, c + row * ldc + column, ldc, add);
    }
  }
}

// C = A · columns [column, column + n) of a packed B whose first panel is at `panels`; both are multiples of kLanes.
inline void multiply_columns(int64_t m, int64_t n, int64_t k, Left a, const float* panels, int64_t column, float* c,
                             int64_t ldc) {
  for (int64_t at = 0, step; at < n; at += step) {
    const int64_t from = column + at, within = from % kPanel;
    step = kPanel - within < n - at ? kPanel - within : n - at;
    const float* b = panels + from / kPanel * kPanel * k + within;
    for (int64_t row = 0; row < m; row += kRows) {
      const int64_t rows = m - row < kRows ? m - row : kRows;
      kKernels<false>[rows - 1][step / kLanes - 1](k, a.data + row * a.stride, a.stride, b, kPanel, c + row * ldc + at,
                                                   ldc, false);
    }
  }
}

}  // namespace tenon::sdk::panel
