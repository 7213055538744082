#include "core/files/rope_freqs.h"

#include <cmath>
#include <numbers>

namespace tenon {

std::vector<float> llama3_rope_factors(int head_dim, double theta, const Llama3RopeScaling& scaling) {
  const double longest_kept = scaling.original_context / scaling.high_freq_factor;
  const double shortest_scaled = scaling.original_context / scaling.low_freq_factor;
  std::vector<float> factors;
  for (int i = 0; i < head_dim / 2; ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(theta, 2.0 * i / head_dim);
    double factor = 1;
    if (wavelength > shortest_scaled) {
      factor = scaling.factor;
    } else if (wavelength >= longest_kept) {
      const double smooth = (scaling.original_context / wavelength - scaling.low_freq_factor) /
                            (scaling.high_freq_factor - scaling.low_freq_factor);
      factor = 1 / ((1 - smooth) / scaling.factor + smooth);
    }
    factors.push_back(static_cast<float>(factor));
  }
  return factors;
}

}  // namespace tenon
