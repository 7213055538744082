// Biases of an adapter's linears, which have one number a column.
#pragma once

#include "sdk/adapter/typed.h"
#include "sdk/column_sums.h"
#include "sdk/linalg/matrix.h"

namespace tenon::sdk {

// y_t += scale · bias.
inline void add_bias(const tn_exec* exec, const float* bias, const Matrix& y, float scale = 1) {
  const int64_t n = y.columns, stride = y.row_stride;
  TN_TYPED(T, y.dtype, "the output of a linear with a bias",
    T* to = static_cast<T*>(y.data);
    for_each(exec, y.rows * n, [=] TN_KERNEL(int64_t i) {
      T& o = to[i / n * stride + i % n];
      o = from_float<T>(to_float(o) + scale * bias[i % n]);
    }););
}

// out += scale · Σ_t dy_t.
inline void add_bias_gradient(const tn_exec* exec, const Matrix& dy, float* out, double scale = 1) {
  const int64_t stride = dy.row_stride;
  TN_TYPED(T, dy.dtype, "the gradient of a linear with a bias",
    const T* from = static_cast<const T*>(dy.data);
    column_sums(
        exec, dy.rows, dy.columns, [=] TN_KERNEL(int64_t t, int64_t j) { return to_float(from[t * stride + j]); },
        [=] TN_KERNEL(int64_t j, double sum) { out[j] += static_cast<float>(scale * sum); }););
}

}  // namespace tenon::sdk
