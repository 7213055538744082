// Draws without replacement on the host: pure functions of a key, so that resumed runs and other ranks agree.
#pragma once

#include <vector>

#include "sdk/philox.h"

namespace tenon::sdk {

// `count` distinct positions of `weights`, one after the other, each with a probability proportional to its weight among those that are
// left. Weights are >= 0; where only zeros are left, these are drawn uniformly.
inline std::vector<size_t> draw_distinct(const tn_rng& key, std::vector<double> weights, size_t count) {
  std::vector<size_t> left(weights.size()), drawn;
  for (size_t i = 0; i < left.size(); ++i) left[i] = i;
  for (size_t k = 0; k < count && !left.empty(); ++k) {
    double sum = 0;
    for (const size_t i : left) sum += weights[i];
    if (!(sum > 0)) {
      for (const size_t i : left) weights[i] = 1;
      sum = static_cast<double>(left.size());
    }
    // 48 bits, so that a long list is drawn without bias.
    const Words r = philox(key, k);
    double at = (static_cast<double>(r.w[0]) * 0x1p-32 + static_cast<double>(r.w[1]) * 0x1p-64) * sum;
    size_t pick = left.size() - 1;
    for (size_t i = 0; i < left.size(); ++i) {
      at -= weights[left[i]];
      if (at < 0) {
        pick = i;
        break;
      }
    }
    while (weights[left[pick]] == 0) --pick;  // rounding at the upper end
    drawn.push_back(left[pick]);
    left.erase(left.begin() + static_cast<std::ptrdiff_t>(pick));
  }
  return drawn;
}

}  // namespace tenon::sdk
