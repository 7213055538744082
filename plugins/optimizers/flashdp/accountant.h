// Privacy of DP-SGD: Renyi differential privacy of the Gaussian mechanism on Poisson samples (Mironov, Talwar and Zhang 2019), at whole
// orders, converted to (epsilon, delta) as in Balle et al. 2020.
#pragma once

#include <cmath>

namespace tenon::sdk {

// RDP of one step at a whole order alpha >= 2: sampling rate q in (0, 1], noise multiplier sigma > 0. In logarithms throughout.
inline double rdp_of_step(double q, double sigma, int alpha) {
  if (q >= 1) return alpha / (2 * sigma * sigma);
  double sum = -INFINITY;
  for (int k = 0; k <= alpha; ++k) {
    const double choose = std::lgamma(alpha + 1.0) - std::lgamma(k + 1.0) - std::lgamma(alpha - k + 1.0);
    const double term = choose + k * std::log(q) + (alpha - k) * std::log1p(-q) + (static_cast<double>(k) * k - k) / (2 * sigma * sigma);
    sum = term > sum ? term + std::log1p(std::exp(sum - term)) : sum + std::log1p(std::exp(term - sum));
  }
  return sum / (alpha - 1);
}

// The smallest epsilon over orders 2 to 256 after `steps` steps; infinite without noise.
inline double privacy_spent(double q, double sigma, double steps, double delta) {
  if (!(sigma > 0) || !(q > 0)) return q > 0 ? INFINITY : 0;
  double best = INFINITY;
  for (int alpha = 2; alpha <= 256; ++alpha) {
    const double a = alpha;
    const double epsilon = steps * rdp_of_step(q, sigma, alpha) - (std::log(delta) + std::log(a)) / (a - 1) + std::log((a - 1) / a);
    if (epsilon < best) best = epsilon;
  }
  return best > 0 ? best : 0;
}

}  // namespace tenon::sdk
