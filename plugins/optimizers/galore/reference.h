// GaLore in double, by the paper's steps, over a one-sided Jacobi SVD: the oracle of the tests.
#pragma once

#include "sdk/testing/oracle.h"

namespace tenon::reference {

// proj_type std: P on the shorter side of W[m, n]. Wide matrices are handled as their transposes, which is the same
// thing.
struct GaLore {
  size_t m, n, r;
  long T;
  double alpha, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-6, lambda = 0;
  Values P, M, V;  // P [n, r]

  GaLore(size_t rows, size_t columns, size_t rank, long gap, double scale)
      : m(rows), n(columns), r(std::min({rank, rows, columns})), T(gap), alpha(scale) {
    wide = m < n;
    if (wide) std::swap(m, n);
    M.resize(m * r), V.resize(m * r);
  }

  void step(Values& W, const std::vector<float>& gradient, double eta, long t) {
    Values G(gradient.begin(), gradient.end());
    if (wide) G = transposed(G, n, m), W = transposed(W, n, m);
    if ((t - 1) % T == 0) refresh(G);
    const Values R = product(G, P, m, n, r);
    Values N(R.size());
    const double c1 = 1 - std::pow(beta1, t), c2 = 1 - std::pow(beta2, t);
    for (size_t i = 0; i < R.size(); ++i) {
      M[i] = beta1 * M[i] + (1 - beta1) * R[i], V[i] = beta2 * V[i] + (1 - beta2) * R[i] * R[i];
      N[i] = std::sqrt(c2) / c1 * M[i] / (std::sqrt(V[i]) + epsilon);
    }
    const Values U = product(N, transposed(P, n, r), m, r, n);
    for (size_t i = 0; i < W.size(); ++i) W[i] = (W[i] - eta * alpha * U[i]) * (1 - eta * lambda);
    if (wide) W = transposed(W, m, n);
  }

 private:
  void refresh(const Values& G) {
    const Values old = P;
    const Svd svd(G, m, n);
    P.assign(n * r, 0);
    for (size_t k = 0; k < r; ++k) {
      double along = 0, largest = 0;
      for (size_t i = 0; i < n; ++i) {
        const double x = svd.v[k * n + i];
        P[i * r + k] = x;
        if (!old.empty()) along += x * old[i * r + k];
        if (std::abs(x) > std::abs(largest)) largest = x;
      }
      if (old.empty() ? largest < 0 : along < 0)
        for (size_t i = 0; i < n; ++i) P[i * r + k] *= -1;
    }
  }
  bool wide;
};

}  // namespace tenon::reference
