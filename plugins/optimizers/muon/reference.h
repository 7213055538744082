// Muon in double, by the steps of its reference implementation: the oracle of the tests.
#pragma once

#include "sdk/testing/oracle.h"

namespace tenon::reference {

inline double frobenius(const Values& x) {
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
}

inline Values newton_schulz(Values x, size_t m, size_t n, int steps) {
  if (m > n) return transposed(newton_schulz(transposed(x, m, n), n, m, steps), n, m);
  const double scale = 1 / (frobenius(x) + 1e-7);
  for (double& v : x) v *= scale;
  for (int k = 0; k < steps; ++k) {
    const Values a = product(x, transposed(x, m, n), m, n, m), aa = product(a, a, m, m, m);
    Values p(m * m);
    for (size_t i = 0; i < m * m; ++i) p[i] = -4.7750 * a[i] + 2.0315 * aa[i] + (i % (m + 1) ? 0 : 3.4445);
    x = product(p, x, m, m, n);
  }
  return x;
}

struct Muon {
  size_t m, n;
  double mu = 0.95, lambda = 0;
  bool nesterov = true;
  int steps = 5;
  Values b = Values(m * n);

  void step(Values& w, const std::vector<float>& g, double eta) {
    Values x(m * n);
    for (size_t i = 0; i < x.size(); ++i) {
      b[i] = mu * b[i] + (1 - mu) * g[i];
      x[i] = nesterov ? (1 - mu) * g[i] + mu * b[i] : b[i];
    }
    const Values o = newton_schulz(x, m, n, steps);
    const double factor = std::sqrt(std::max(1.0, static_cast<double>(m) / static_cast<double>(n)));
    for (size_t i = 0; i < w.size(); ++i) w[i] = w[i] * (1 - eta * lambda) - eta * factor * o[i];
  }
};

}  // namespace tenon::reference
