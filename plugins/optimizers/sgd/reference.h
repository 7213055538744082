// Stochastic gradient descent, one element at a time in double: the oracle of the tests.
#pragma once

namespace tenon::reference {

struct Sgd {
  double mu = 0, dampening = 0, l2 = 0, lambda = 0;
  bool nesterov = false, ema = false, sign = false;
  double b = 0;

  // w after update t (from 1) with gradient G and rate eta.
  double step(double w, double G, double eta, long t) {
    const double g = G + l2 * w;
    double u = g;
    if (mu > 0) {
      if (ema)
        b = mu * b + (1 - mu) * g;
      else
        b = t == 1 ? g : mu * b + (1 - dampening) * g;
      u = !nesterov ? b : mu * b + (ema ? 1 - mu : 1) * g;
    }
    if (sign) u = (u > 0) - (u < 0);
    w *= 1 - eta * lambda;
    return w - eta * u;
  }
};

}  // namespace tenon::reference
