// Adam-mini in double, one block of a parameter at a time, with the paper's names: the oracle of the tests.
#pragma once

#include <cmath>
#include <vector>

namespace tenon::reference {

struct AdamMini {
  size_t size;  // elements of a block
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, lambda = 0;
  std::vector<double> m = {}, v = {};

  void step(std::vector<double>& w, const std::vector<float>& g, double eta, long t) {
    m.resize(w.size()), v.resize(w.size() / size);
    for (size_t k = 0; k < v.size(); ++k) {
      double mean = 0;
      for (size_t i = k * size; i < (k + 1) * size; ++i)
        mean += static_cast<double>(g[i]) * g[i] / static_cast<double>(size);
      v[k] = beta2 * v[k] + (1 - beta2) * mean;
      const double root = std::sqrt(v[k] / (1 - std::pow(beta2, t))) + epsilon;
      for (size_t i = k * size; i < (k + 1) * size; ++i) {
        m[i] = beta1 * m[i] + (1 - beta1) * g[i];
        w[i] = w[i] * (1 - eta * lambda) - eta * m[i] / (1 - std::pow(beta1, t)) / root;
      }
    }
  }
};

}  // namespace tenon::reference
