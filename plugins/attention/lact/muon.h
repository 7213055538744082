// Newton-Schulz orthogonalisation of many small matrices at once, and its adjoint.
//
//   X_0 = G / (|G|_F + ε),   A = X Xᵀ,   B = b A + c A A,   X ← a X + B X   five times, with coefficients of their own
//
// on the shorter side. Singular values above about 0.005 of the norm come out between 0.7 and 1.2. The adjoint replays the steps from the X
// that forward kept: with Z = dX′, E = Z Xᵀ + X Zᵀ and P = E A,   dX = a Z + B Z + (b E + c (P + Pᵀ)) X.
#pragma once

#include <cmath>

#include "sdk/for_each.h"
#include "sdk/mixer.h"

namespace tenon::lact {

using sdk::Matrices;
using sdk::Matrix;
using sdk::shift;

// x = g / (|g| + ε) for every matrix of `size` numbers, and the factors. One block a matrix.
struct Normalize {
  static constexpr float kFloor = 1e-7f;
  int64_t size;
  const float* g;
  float *x, *factor;
  TN_FN void operator()(const sdk::Block& block) const {
    const float* const from = g + block.index * size;
    float *const to = x + block.index * size, *const f = factor + block.index;
    const float r = 1 / (std::sqrt(block.sum(size, [=](int64_t i) { return from[i] * from[i]; })) + kFloor);
    block.each(size, [=](int64_t i) { to[i] = from[i] * r; });
    block.each(1, [=](int64_t) { *f = r; });
  }
};

// dg = factor · dx − x · <dx, x> / |g|.
struct NormalizeBackward {
  int64_t size;
  const float *x, *factor, *dx;
  float* dg;
  TN_FN void operator()(const sdk::Block& block) const {
    const float *const from = x + block.index * size, *const d = dx + block.index * size;
    float* const to = dg + block.index * size;
    const float r = factor[block.index], norm = 1 / r - Normalize::kFloor;
    const float along = block.sum(size, [=](int64_t i) { return d[i] * from[i]; });
    const float pull = norm > 0 ? along / norm : 0.0f;
    block.each(size, [=](int64_t i) { to[i] = r * d[i] - from[i] * pull; });
  }
};

// out = alpha · e + beta · (p + pᵀ) for matrices [m, m].
struct Symmetrize {
  int64_t m;
  float alpha, beta;
  const float *e, *p;
  float* out;
  TN_FN void operator()(int64_t i) const {
    const int64_t matrix = i / (m * m) * m * m, row = i / m % m, column = i % m;
    out[i] = alpha * e[i] + beta * (p[i] + p[matrix + column * m + row]);
  }
};

class Muon {
 public:
  static constexpr int kSteps = 5;
  static constexpr double kCoefficients[kSteps][3] = {
      {4.0848, -6.8946, 2.9270}, {3.9505, -6.3029, 2.6377}, {3.7418, -5.5913, 2.3037}, {2.8769, -3.1427, 1.2046}, {2.8366, -3.0525, 1.2012}};

  // n matrices [rows, columns], dense. keeps: for backward.
  Muon(const sdk::MixerPass& pass, int64_t n, int64_t rows, int64_t columns, bool keeps)
      : p_(pass), n_(n), rows_(rows), columns_(columns), m_(std::min(rows, columns)), keeps_(keeps) {
    x_ = p_.floats((keeps ? kSteps + 1 : 2) * all());
    factor_ = p_.floats(n_), gram_ = p_.floats(n_ * m_ * m_), polynomial_ = p_.floats(n_ * m_ * m_);
    if (keeps) e_ = p_.floats(n_ * m_ * m_), product_ = p_.floats(n_ * m_ * m_), z_ = p_.floats(2 * all());
  }

  // The orthogonalised matrices of g; valid until the next call.
  const float* forward(const float* g) const {
    if (!p_.plans()) sdk::for_each_block(p_.exec(), n_, Normalize{rows_ * columns_, g, step(0), factor_}, rows_ * columns_);
    for (int k = 0; k < kSteps; ++k) {
      polynomial(k);
      advance(k, step(k), step(k + 1));
    }
    return step(kSteps);
  }

  // After forward of the same g: dg from d, the gradient of its result. dg may be d.
  void backward(const float* d, float* dg) const {
    float *z = z_, *next = shift(z_, all());
    p_.copy(d, z, all());
    for (int k = kSteps - 1; k >= 0; --k) {
      const double* const c = kCoefficients[k];
      polynomial(k);
      p_.product(1, wide(z), wide(step(k)).transposed(), 0, square(e_));
      symmetrize(0, 1, e_, e_, product_);  // E, in the place of the product
      p_.product(1, square(product_), square(gram_), 0, square(e_));
      advance(k, z, next);
      symmetrize(c[1], c[2], product_, e_, gram_);
      p_.product(1, square(gram_), wide(step(k)), 1, wide(next));
      std::swap(z, next);
    }
    if (!p_.plans()) sdk::for_each_block(p_.exec(), n_, NormalizeBackward{rows_ * columns_, step(0), factor_, z, dg}, rows_ * columns_);
  }

 private:
  int64_t all() const { return n_ * rows_ * columns_; }
  float* step(int k) const { return shift(x_, (keeps_ ? k : k % 2) * all()); }
  Matrices wide(float* x) const {
    const Matrices v = Matrices::dense(x, n_, rows_, columns_);
    return rows_ > columns_ ? v.transposed() : v;
  }
  Matrices square(float* x) const { return Matrices::dense(x, n_, m_, m_); }
  void symmetrize(double alpha, double beta, const float* e, const float* p, float* out) const {
    if (!p_.plans()) sdk::for_each(p_.exec(), n_ * m_ * m_, Symmetrize{m_, static_cast<float>(alpha), static_cast<float>(beta), e, p, out});
  }
  // gram = X Xᵀ and polynomial = b A + c A A of step k.
  void polynomial(int k) const {
    p_.product(1, wide(step(k)), wide(step(k)).transposed(), 0, square(gram_));
    p_.copy(gram_, polynomial_, n_ * m_ * m_, kCoefficients[k][1]);
    p_.product(kCoefficients[k][2], square(gram_), square(gram_), 1, square(polynomial_));
  }
  // to = a · from + B · from.
  void advance(int k, float* from, float* to) const {
    p_.copy(from, to, all(), kCoefficients[k][0]);
    p_.product(1, square(polynomial_), wide(from), 1, wide(to));
  }

  const sdk::MixerPass& p_;
  int64_t n_, rows_, columns_, m_;
  bool keeps_;
  float *x_, *factor_, *gram_, *polynomial_, *e_ = nullptr, *product_ = nullptr, *z_ = nullptr;
};

}  // namespace tenon::lact
