// Fira in double, by the paper's steps: the oracle of the tests. P is on the shorter side of W[m, n]; wide matrices are
// handled as their transposes, which is the same thing.
#pragma once

#include "sdk/testing/oracle.h"

namespace tenon::reference {

struct Fira {
  size_t m, n, r;
  long T;
  double alpha, inside, gamma = 1.01, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-6, lambda = 0;
  Values P = {}, M = {}, V = {};
  double last = 0;  // |E| of the update before

  void step(Values& W, const std::vector<float>& gradient, double eta, long t) {
    Values G(gradient.begin(), gradient.end());
    const bool wide = m < n;
    const size_t p = std::max(m, n), d = std::min(m, n);
    if (wide) G = transposed(G, m, n), W = transposed(W, m, n);
    M.resize(p * r), V.resize(p * r);
    if ((t - 1) % T == 0) refresh(G, p, d);
    const Values R = product(G, P, p, d, r);
    Values N(R.size());
    for (size_t i = 0; i < R.size(); ++i) {
      M[i] = beta1 * M[i] + (1 - beta1) * R[i], V[i] = beta2 * V[i] + (1 - beta2) * R[i] * R[i];
      N[i] = M[i] / (std::sqrt(V[i]) + epsilon);
    }
    const Values back = transposed(P, d, r), NP = product(N, back, p, r, d), RP = product(R, back, p, r, d);
    Values E(G.size());
    double squares = 0;
    for (size_t i = 0; i < p; ++i) {
      double of_n = 0, of_r = 0;
      for (size_t k = 0; k < r; ++k) of_n += N[i * r + k] * N[i * r + k], of_r += R[i * r + k] * R[i * r + k];
      const double phi = std::sqrt(of_n) / (std::sqrt(of_r) + 1e-8);
      for (size_t j = 0; j < d; ++j) {
        E[i * d + j] = phi * (G[i * d + j] - inside * RP[i * d + j]);
        squares += E[i * d + j] * E[i * d + j];
      }
    }
    const double norm = std::sqrt(squares), limit = last > 0 ? std::max(norm / (last + 1e-8), gamma) / gamma : 1;
    last = norm / limit;
    const double rate = eta * std::sqrt(1 - std::pow(beta2, t)) / (1 - std::pow(beta1, t));
    for (size_t i = 0; i < W.size(); ++i) W[i] = (W[i] - rate * (alpha * NP[i] + E[i] / limit)) * (1 - eta * lambda);
    if (wide) W = transposed(W, n, m);
  }

 private:
  void refresh(const Values& G, size_t p, size_t d) {
    const Values old = P;
    const Svd svd(G, p, d);
    P.assign(d * r, 0);
    for (size_t k = 0; k < r; ++k) {
      double along = 0, largest = 0;
      for (size_t i = 0; i < d; ++i) {
        const double x = P[i * r + k] = svd.v[k * d + i];
        if (!old.empty()) along += x * old[i * r + k];
        if (std::abs(x) > std::abs(largest)) largest = x;
      }
      if (old.empty() ? largest < 0 : along < 0)
        for (size_t i = 0; i < d; ++i) P[i * r + k] *= -1;
    }
  }
};

}  // namespace tenon::reference
