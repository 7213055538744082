// Element-wise parts of side networks.
#pragma once

#include <cmath>

#include "sdk/adapter/typed.h"
#include "sdk/column_sums.h"
#include "sdk/linalg/matrix.h"

namespace tenon::sdk::side {

// β_j = sigmoid(z_j / temperature); stride 0: one gate for all channels.
struct Gate {
  const float* z;
  int64_t stride;
  float inverse_temperature;
  TN_FN float operator()(int64_t j) const { return 1.0f / (1.0f + std::exp(-z[j * stride] * inverse_temperature)); }
};

// out = β ⊙ g + (1 − β) ⊙ d.
inline void mix(const tn_exec* exec, Gate gate, const Matrix& g, const Matrix& d, const Matrix& out) {
  const int64_t n = g.columns;
  TN_TYPED(T, g.dtype, "a state of the side network",
    const T *a = static_cast<const T*>(g.data), *b = static_cast<const T*>(d.data);
    T* to = static_cast<T*>(out.data);
    for_each(exec, g.rows * n, [=] TN_KERNEL(int64_t i) {
      const float beta = gate(i % n);
      to[i] = from_float<T>(beta * to_float(a[i]) + (1 - beta) * to_float(b[i]));
    }););
}

// dd = (1 − β) ⊙ dout, dz += Σ dout ⊙ (g − d) β (1 − β) / temperature, then dout becomes dg = β ⊙ dout.
inline void mix_backward(const tn_exec* exec, Gate gate, const Matrix& dout, const Matrix& g, const Matrix& d, const Matrix& dd, float* dz) {
  const int64_t n = g.columns, rows = g.rows;
  TN_TYPED(T, g.dtype, "a state of the side network",
    T *out = static_cast<T*>(dout.data), *to = static_cast<T*>(dd.data);
    const T *a = static_cast<const T*>(g.data), *b = static_cast<const T*>(d.data);
    if (dz && gate.stride == 1) {
      column_sums(
          exec, rows, n,
          [=] TN_KERNEL(int64_t t, int64_t j) { return static_cast<double>(to_float(out[t * n + j])) * (to_float(a[t * n + j]) - to_float(b[t * n + j])); },
          [=] TN_KERNEL(int64_t j, double sum) {
            const float beta = gate(j);
            dz[j] += static_cast<float>(sum * beta * (1 - beta) * gate.inverse_temperature);
          });
    } else if (dz) {
      for_each_block(exec, 1, [=] TN_KERNEL(const Block& block) {
        const float beta = gate(0);
        const double sum = block.sum(rows * n, [=](int64_t i) { return static_cast<double>(to_float(out[i])) * (to_float(a[i]) - to_float(b[i])); });
        block.each(1, [=](int64_t) { dz[0] += static_cast<float>(sum * beta * (1 - beta) * gate.inverse_temperature); });
      });
    }
    for_each(exec, rows * n, [=] TN_KERNEL(int64_t i) {
      const float beta = gate(i % n), v = to_float(out[i]);
      to[i] = from_float<T>((1 - beta) * v);
      out[i] = from_float<T>(beta * v);
    }););
}

// out[t, j] = mean of from[t, jρ … (j + 1)ρ − 1].
inline void pool(const tn_exec* exec, int64_t reduction, const Matrix& from, const Matrix& out) {
  const float share = 1.0f / static_cast<float>(reduction);
  TN_TYPED(T, from.dtype, "a state of the side network",
    const T* in = static_cast<const T*>(from.data);
    T* to = static_cast<T*>(out.data);
    for_each(exec, out.rows * out.columns, [=] TN_KERNEL(int64_t i) {
      float sum = 0;
      for (int64_t k = 0; k < reduction; ++k) sum += to_float(in[i * reduction + k]);
      to[i] = from_float<T>(share * sum);
    }););
}

// y = (1 − a) lifted + a normed with a = sigmoid(logit).
inline void blend(const tn_exec* exec, const float* logit, const Matrix& lifted, const Matrix& normed, const Matrix& y) {
  mix(exec, Gate{logit, 0, 1}, normed, lifted, y);
}
// dlifted = (1 − a) dy, dlogit += Σ dy ⊙ (normed − lifted) a (1 − a).
inline void blend_backward(const tn_exec* exec, const float* logit, const Matrix& dy, const Matrix& lifted, const Matrix& normed, const Matrix& dlifted,
                           float* dlogit) {
  const int64_t n = dy.rows * dy.columns;
  TN_TYPED(T, dy.dtype, "a state of the side network",
    const T *g = static_cast<const T*>(dy.data), *a = static_cast<const T*>(normed.data), *b = static_cast<const T*>(lifted.data);
    T* to = static_cast<T*>(dlifted.data);
    const Gate gate{logit, 0, 1};
    if (dlogit)
      for_each_block(exec, 1, [=] TN_KERNEL(const Block& block) {
        const float beta = gate(0);
        const double sum = block.sum(n, [=](int64_t i) { return static_cast<double>(to_float(g[i])) * (to_float(a[i]) - to_float(b[i])); });
        block.each(1, [=](int64_t) { dlogit[0] += static_cast<float>(sum * beta * (1 - beta)); });
      });
    for_each(exec, n, [=] TN_KERNEL(int64_t i) { to[i] = from_float<T>((1 - gate(0)) * to_float(g[i])); }););
}

}  // namespace tenon::sdk::side
