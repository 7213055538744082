// C (+)= A · B over panels: the register-blocked heart of the products in CPU attention kernels. C is f32; what A and B
// hold is a parameter, f32 here and pairs of bf16 in pairs.h.
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

// Of: a Number as A and B hold it, kLanes of them as a Row of B, every(number) as such a row, and a product of two rows
// added to a sum.
struct Floats {
  using Number = float;
  using Row = Vec;
  TN_FN static Row row(const float* b) { return load(b); }
  TN_FN static Row every(float a) { return broadcast(a); }
  TN_FN static void add_product(Vec& sum, Row a, Row b) { sum += a * b; }
};

template <class Of, int M, int N, bool Transposed>
[[gnu::noinline]] void micro_kernel(int64_t k, const typename Of::Number* a, int64_t lda, const typename Of::Number* b,
                                    int64_t ldb, float* c, int64_t ldc, bool add) {
  Vec sum[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sum[m][n] = add ? load(c + m * ldc + n * kLanes) : Vec{};
  for (int64_t p = 0; p < k; ++p) {
    typename Of::Row row[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) row[n] = Of::row(b + n * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const typename Of::Row x = Of::every(Transposed ? a[m] : a[m * lda]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) Of::add_product(sum[m][n], x, row[n]);
    }
    a += Transposed ? lda : 1;
    b += ldb;
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(c + m * ldc + n * kLanes, sum[m][n]);
}

template <class Of>
using MicroKernel = void (*)(int64_t, const typename Of::Number*, int64_t, const typename Of::Number*, int64_t, float*,
                             int64_t, bool);

// Kernels [rows − 1][vectors − 1].
template <class Of, bool Transposed>
inline constexpr MicroKernel<Of> kKernels[kRows][kPanelVectors] = {
#if defined(__AVX512F__)
#define TENON_PANEL_ROW(m)                                                                                  \
  {                                                                                                         \
    micro_kernel<Of, m, 1, Transposed>, micro_kernel<Of, m, 2, Transposed>,                                 \
        micro_kernel<Of, m, 3, Transposed>, micro_kernel<Of, m, 4, Transposed>                              \
  }
#else
#define TENON_PANEL_ROW(m) \
  { micro_kernel<Of, m, 1, Transposed>, micro_kernel<Of, m, 2, Transposed> }
#endif
    TENON_PANEL_ROW(1), TENON_PANEL_ROW(2), TENON_PANEL_ROW(3),
    TENON_PANEL_ROW(4), TENON_PANEL_ROW(5), TENON_PANEL_ROW(6)};
#undef TENON_PANEL_ROW

// lda, ldb: between rows as stored; panel: between the panels of B.
template <class Of, bool Transposed>
inline void multiply_of(int64_t m, int64_t n, int64_t k, const typename Of::Number* a, int64_t lda,
                        const typename Of::Number* b, int64_t ldb, int64_t panel, float* c, int64_t ldc, bool add) {
  for (int64_t column = 0; column < n; column += kPanel) {
    const int64_t vectors = (n - column < kPanel ? n - column : kPanel) / kLanes;
    for (int64_t row = 0; row < m; row += kRows) {
      const int64_t rows = m - row < kRows ? m - row : kRows;
      kKernels<Of, Transposed>[rows - 1][vectors - 1](k, a + (Transposed ? row : row * lda), lda,
                                                      b + column / kPanel * panel, ldb, c + row * ldc + column, ldc,
                                                      add);
    }
  }
}

// C = A · columns [column, column + n) of a packed B whose first panel is at `panels`; both are multiples of kLanes.
template <class Of>
inline void multiply_columns_of(int64_t m, int64_t n, int64_t k, const typename Of::Number* a, int64_t lda,
                                const typename Of::Number* panels, int64_t column, float* c, int64_t ldc) {
  for (int64_t at = 0, step; at < n; at += step) {
    const int64_t from = column + at, within = from % kPanel;
    step = kPanel - within < n - at ? kPanel - within : n - at;
    multiply_of<Of, false>(m, step, k, a, lda, panels + from / kPanel * kPanel * k + within, kPanel, 0, c + at, ldc,
                           false);
  }
}

template <bool Transposed>
inline void multiply(int64_t m, int64_t n, int64_t k, Left a, Right b, float* c, int64_t ldc, bool add) {
  multiply_of<Floats, Transposed>(m, n, k, a.data, a.stride, b.data, b.stride, b.panel, c, ldc, add);
}
inline void multiply_columns(int64_t m, int64_t n, int64_t k, Left a, const float* panels, int64_t column, float* c,
                             int64_t ldc) {
  multiply_columns_of<Floats>(m, n, k, a.data, a.stride, panels, column, c, ldc);
}

}  // namespace tenon::sdk::panel
