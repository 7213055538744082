// The element-wise parts of DoRA: row norms of W + s B A without that matrix, and what scales by them.
#pragma once

#include <cmath>

#include "sdk/adapter/scratch.h"
#include "sdk/column_sums.h"
#include "sdk/for_each.h"

namespace tenon::dora {

using namespace tenon::sdk;

// inverse[i] = 1/ν_i with ν_i² = ‖w_i‖² + 2 s b_i·h_i + s² b_i (A Aᵀ) b_iᵀ; h = A Wᵀ + bias [r, m], bg = B A Aᵀ [m, r].
// 0 where ν vanishes, which makes a row of zeros stay one.
inline void inverse_norms(const tn_exec* exec, int64_t m, int64_t r, double s, const float* squares, const float* b,
                          const float* h, const float* bg, const float* bias, float* inverse) {
  for_each(exec, m, [=] TN_KERNEL(int64_t i) {
    double sum = squares[i];
    const double shift = bias ? bias[i] : 0;
    for (int64_t k = 0; k < r; ++k) sum += s * b[i * r + k] * (2 * (h[k * m + i] - shift) + s * bg[i * r + k]);
    inverse[i] = sum > 1e-30 ? static_cast<float>(1 / std::sqrt(sum)) : 0.0f;
  });
}

// to = factor_j · from + add_j, per column; factor = g · inverse − minus. add null = 0; accumulate: to +=.
inline void scale_columns(const tn_exec* exec, const Matrix& from, const float* g, const float* inverse, float minus,
                          const float* add, const Matrix& to, bool accumulate = false) {
  const int64_t n = from.columns, from_stride = from.row_stride, to_stride = to.row_stride;
  TN_TYPED(T, from.dtype, "a product",
    const T* in = static_cast<const T*>(from.data);
    T* out = static_cast<T*>(to.data);
    for_each(exec, from.rows * n, [=] TN_KERNEL(int64_t i) {
      const int64_t t = i / n, j = i % n;
      T& o = out[t * to_stride + j];
      const float v = (g[j] * inverse[j] - minus) * to_float(in[t * from_stride + j]) + (add ? add[j] : 0.0f);
      o = from_float<T>(accumulate ? to_float(o) + v : v);
    }););
}

// to += factor · (from − add_j).
inline void add_shifted(const tn_exec* exec, const Matrix& from, float factor, const float* add, const Matrix& to) {
  const int64_t n = from.columns, from_stride = from.row_stride, to_stride = to.row_stride;
  TN_TYPED(T, from.dtype, "a product",
    const T* in = static_cast<const T*>(from.data);
    T* out = static_cast<T*>(to.data);
    for_each(exec, from.rows * n, [=] TN_KERNEL(int64_t i) {
      T& o = out[i / n * to_stride + i % n];
      o = from_float<T>(to_float(o) + factor * (to_float(in[i / n * from_stride + i % n]) - (add ? add[i % n] : 0.0f)));
    }););
}

// dots[j] = Σ_t a_tj · b_tj: reads both once, in order, whatever the number of threads.
inline void column_dots(const tn_exec* exec, const Matrix& a, const Matrix& b, double* dots) {
  const int64_t a_stride = a.row_stride, b_stride = b.row_stride;
  TN_TYPED(T, a.dtype, "a gradient",
    const T *x = static_cast<const T*>(a.data), *y = static_cast<const T*>(b.data);
    column_sums(
        exec, a.rows, a.columns, [=] TN_KERNEL(int64_t t, int64_t j) { return static_cast<double>(to_float(x[t * a_stride + j])) * to_float(y[t * b_stride + j]); },
        [=] TN_KERNEL(int64_t j, double sum) { dots[j] = sum; }););
}

}  // namespace tenon::dora
