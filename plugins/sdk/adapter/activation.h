// The activation of bottleneck adapters and its derivative.
#pragma once

#include <cmath>

#include "sdk/adapter/scratch.h"
#include "sdk/for_each.h"

namespace tenon::sdk {

// GELU in its tanh form (Hendrycks & Gimpel 2016), "gelu_new" of the references.
TN_FN float gelu(float x) {
  const float u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
  return 0.5f * x * (1.0f + std::tanh(u));
}
TN_FN float gelu_slope(float x) {
  const float u = 0.7978845608028654f * (x + 0.044715f * x * x * x), t = std::tanh(u);
  return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608028654f * (1.0f + 3 * 0.044715f * x * x);
}

// y = gelu(x), and dx = dy · gelu'(x); dense matrices of one type; outputs may alias.
inline void gelu_forward(const tn_exec* exec, const Matrix& x, const Matrix& y) {
  TN_TYPED(T, x.dtype, "an activation",
    const T* from = static_cast<const T*>(x.data);
    T* to = static_cast<T*>(y.data);
    for_each(exec, x.rows * x.columns, [=] TN_KERNEL(int64_t i) { to[i] = from_float<T>(gelu(to_float(from[i]))); }););
}
inline void gelu_backward(const tn_exec* exec, const Matrix& dy, const Matrix& x, const Matrix& dx) {
  TN_TYPED(T, x.dtype, "an activation",
    const T *gradient = static_cast<const T*>(dy.data), *from = static_cast<const T*>(x.data);
    T* to = static_cast<T*>(dx.data);
    for_each(exec, x.rows * x.columns, [=] TN_KERNEL(int64_t i) { to[i] = from_float<T>(to_float(gradient[i]) * gelu_slope(to_float(from[i]))); }););
}

// SiLU, x sigmoid(x), likewise.
inline void silu_forward(const tn_exec* exec, const Matrix& x, const Matrix& y) {
  TN_TYPED(T, x.dtype, "an activation",
    const T* from = static_cast<const T*>(x.data);
    T* to = static_cast<T*>(y.data);
    for_each(exec, x.rows * x.columns, [=] TN_KERNEL(int64_t i) {
      const float v = to_float(from[i]);
      to[i] = from_float<T>(v / (1.0f + std::exp(-v)));
    }););
}
inline void silu_backward(const tn_exec* exec, const Matrix& dy, const Matrix& x, const Matrix& dx) {
  TN_TYPED(T, x.dtype, "an activation",
    const T *gradient = static_cast<const T*>(dy.data), *from = static_cast<const T*>(x.data);
    T* to = static_cast<T*>(dx.data);
    for_each(exec, x.rows * x.columns, [=] TN_KERNEL(int64_t i) {
      const float v = to_float(from[i]), s = 1.0f / (1.0f + std::exp(-v));
      to[i] = from_float<T>(to_float(gradient[i]) * s * (1.0f + v * (1.0f - s)));
    }););
}

// to += factor · from; dense.
inline void add_scaled(const tn_exec* exec, double factor, const Matrix& from, const Matrix& to) {
  const float k = static_cast<float>(factor);
  TN_TYPED(T, from.dtype, "an activation",
    const T* in = static_cast<const T*>(from.data);
    TN_TYPED(U, to.dtype, "a sum",
      U* out = static_cast<U*>(to.data);
      for_each(exec, from.rows * from.columns, [=] TN_KERNEL(int64_t i) { out[i] = from_float<U>(to_float(out[i]) + k * to_float(in[i])); });););
}

}  // namespace tenon::sdk
