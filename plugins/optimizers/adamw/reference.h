// AdamW, one element at a time in double, with the paper's names: the oracle of the tests.
#pragma once

#include <algorithm>
#include <cmath>

namespace tenon::reference {

struct AdamW {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, lambda = 1e-2;
  bool amsgrad = false, hf = false, decay_first = true;
  double m = 0, v = 0, v_max = 0;

  // theta after update t (from 1) with gradient g and rate eta.
  double step(double theta, double g, double eta, long t) {
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    v_max = std::max(v_max, v);
    const double second = amsgrad ? v_max : v;
    const double c1 = 1 - std::pow(beta1, t), c2 = 1 - std::pow(beta2, t);
    const double denominator =
        hf ? (std::sqrt(second) + epsilon) * c1 / std::sqrt(c2) : (std::sqrt(second / c2) + epsilon) * c1;
    if (decay_first) theta *= 1 - eta * lambda;
    if (denominator > 0) theta -= eta * m / denominator;
    if (!decay_first) theta *= 1 - eta * lambda;
    return theta;
  }
};

}  // namespace tenon::reference
