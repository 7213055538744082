// A linear map that is a sum of Kronecker products, never formed: H = Σ_i R_i ⊗ (s_i t_iᵀ), y = x H + b.
//
// With x [T, in] seen as [T·N, p], p = in/N, and y [T, out] as [T·N, q], q = out/N:
//   E = x sᵀ [T·N, N],  F[(t, c), i] = Σ_a E[(t, a), i] R_i[a, c],  y = F t + b
// R (outer) is indexed R[i][a][c], s [N, p] and t [N, q] (inner): this order is that of the file.
#pragma once

#include "sdk/adapter/bias.h"
#include "sdk/adapter/scratch.h"
#include "sdk/for_each.h"

namespace tenon::compacter {

using namespace tenon::sdk;

struct KroneckerMap {
  int64_t N, in, out;
  int64_t p() const { return in / N; }
  int64_t q() const { return out / N; }

  // Null data when measuring.
  struct Factors {
    const float *rules = nullptr, *s = nullptr, *t = nullptr, *bias = nullptr;
  };
  struct Gradients {
    float *rules = nullptr, *s = nullptr, *t = nullptr, *bias = nullptr;
  };

  static Matrix dense(const float* data, int64_t rows, int64_t columns) {
    return Matrix::dense(const_cast<float*>(data), rows, columns);
  }
  Matrix folded(const Matrix& x, int64_t width) const { return Matrix::dense(x.data, x.dtype, x.rows * N, width); }

  // y = x H + b; x and y contiguous.
  void forward(Scratch& s, const Factors& f, const Matrix& x, const Matrix& y) const {
    const uint64_t mark = s.mark();
    const Matrix e = s.matrix(kF32, x.rows * N, N), mixed = s.matrix(kF32, x.rows * N, N);
    mix(s, f, x, e, mixed);
    s.product(1, mixed, dense(f.t, N, q()), 0, folded(y, q()));
    if (!s.measures()) add_bias(s.exec(), f.bias, y);
    s.release(mark);
  }

  // dx = dy Hᵀ (null: not wanted), and gradients where wanted, added.
  void backward(Scratch& s, const Factors& f, const Gradients& g, const Matrix& x, const Matrix& dy,
                const Matrix* dx) const {
    const uint64_t mark = s.mark();
    const int64_t rows = x.rows;
    const Matrix e = s.matrix(kF32, rows * N, N), mixed = s.matrix(kF32, rows * N, N),
                 d_mixed = s.matrix(kF32, rows * N, N);
    mix(s, f, x, e, mixed);
    const Matrix dy_folded = folded(dy, q());
    if (g.t || s.measures()) s.product(1, mixed.transposed(), dy_folded, 1, dense(g.t, N, q()));
    s.product(1, dy_folded, dense(f.t, N, q()).transposed(), 0, d_mixed);
    if (!s.measures()) {
      if (g.bias) add_bias_gradient(s.exec(), dy, g.bias);
      rule_gradient(s, e, d_mixed, g.rules);
      unmix(s, f, d_mixed, mixed);  // dE over F
    }
    if (g.s || s.measures()) s.product(1, mixed.transposed(), folded(x, p()), 1, dense(g.s, N, p()));
    if (dx) s.product(1, mixed, dense(f.s, N, p()), 0, folded(*dx, p()));
    s.release(mark);
  }

  // What serves the functions above, public for nvcc, which takes kernels nowhere else.

  void mix(Scratch& s, const Factors& f, const Matrix& x, const Matrix& e, const Matrix& mixed) const {
    s.product(1, folded(x, p()), dense(f.s, N, p()).transposed(), 0, e);
    if (s.measures()) return;
    const float *from = static_cast<float*>(e.data), *rules = f.rules;
    float* to = static_cast<float*>(mixed.data);
    const int64_t n = N;
    for_each(s.exec(), x.rows * n * n, [=] TN_KERNEL(int64_t k) {
      const int64_t t = k / (n * n), c = k / n % n, i = k % n;
      float sum = 0;
      for (int64_t a = 0; a < n; ++a) sum += from[(t * n + a) * n + i] * rules[(i * n + a) * n + c];
      to[k] = sum;
    });
  }
  // dE[(t, a), i] = Σ_c dF[(t, c), i] R_i[a, c].
  void unmix(Scratch& s, const Factors& f, const Matrix& d_mixed, const Matrix& de) const {
    const float *from = static_cast<float*>(d_mixed.data), *rules = f.rules;
    float* to = static_cast<float*>(de.data);
    const int64_t n = N;
    for_each(s.exec(), d_mixed.rows * n, [=] TN_KERNEL(int64_t k) {
      const int64_t t = k / (n * n), a = k / n % n, i = k % n;
      float sum = 0;
      for (int64_t c = 0; c < n; ++c) sum += from[(t * n + c) * n + i] * rules[(i * n + a) * n + c];
      to[k] = sum;
    });
  }
  // dR_i[a, c] += Σ_t E[(t, a), i] dF[(t, c), i].
  void rule_gradient(Scratch& s, const Matrix& e, const Matrix& d_mixed, float* out) const {
    if (!out) return;
    const float *left = static_cast<float*>(e.data), *right = static_cast<float*>(d_mixed.data);
    const int64_t n = N, rows = e.rows / N;
    for_each_block(
        s.exec(), n * n * n,
        [=] TN_KERNEL(const Block& b) {
          const int64_t i = b.index / (n * n), a = b.index / n % n, c = b.index % n;
          const double sum =
              b.sum(rows, [=](int64_t t) { return static_cast<double>(left[(t * n + a) * n + i]) * right[(t * n + c) * n + i]; });
          float* const to = out + b.index;
          b.each(1, [=](int64_t) { *to += static_cast<float>(sum); });
        },
        rows);
  }
};

}  // namespace tenon::compacter
