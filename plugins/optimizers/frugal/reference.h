// FRUGAL over chosen elements in double, one element at a time: the oracle of the tests.
#pragma once

#include <cmath>
#include <vector>

namespace tenon::reference {

struct Frugal {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, lambda = 0, mult = 1, c = 1;
  int rule = 2;  // 0 no, 1 sgd, 2 sign_sgd
  std::vector<double> m = {}, v = {};

  // t: updates since the choice; chosen[i]: whether element i has states.
  void step(std::vector<double>& w, const std::vector<float>& g, const std::vector<bool>& chosen, double eta, long t) {
    if (t == 1) m.assign(w.size(), 0), v.assign(w.size(), 0);
    for (size_t i = 0; i < w.size(); ++i) {
      w[i] *= 1 - eta * lambda;
      const double h = g[i];
      if (chosen[i]) {
        m[i] = beta1 * m[i] + (1 - beta1) * h, v[i] = beta2 * v[i] + (1 - beta2) * h * h;
        const double root = std::sqrt(v[i] / (1 - std::pow(beta2, t))) + epsilon;
        w[i] -= eta * mult * m[i] / (1 - std::pow(beta1, t)) / root;
      } else {
        w[i] -= eta * mult * c * (rule == 2 ? (h > 0) - (h < 0) : rule == 1 ? h : 0);
      }
    }
  }
};

}  // namespace tenon::reference
