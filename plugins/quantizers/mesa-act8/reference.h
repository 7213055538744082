// The card in plain code, in f64 but for what is stored.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace tenon::mesa::reference {

struct Range {
  double lo = 0, width = 0;
};

// The running range after a call that sees [lo, lo + width].
inline Range moved(const Range& before, const Range& seen, double decay) {
  if (before.lo == 0 && before.width == 0) return seen;
  return {decay * before.lo + (1 - decay) * seen.lo, decay * before.width + (1 - decay) * seen.width};
}

inline Range range_of(const std::vector<float>& x) {
  const auto [lo, hi] = std::minmax_element(x.begin(), x.end());
  return {*lo, double{*hi} - *lo};
}

// u of a random byte: the middles of 256 equal parts of [0, 1).
inline double draw_of(uint32_t byte) { return (byte + 0.5) / 256; }

// Value that x comes back as, drawn with u in [0, 1). Where 0 lies in the range the grid is moved down onto it, for which one step is left.
inline double round_trip(const Range& r, double x, double u) {
  if (r.width <= 0) return r.lo;
  const bool has_zero = r.lo <= 0 && r.lo + r.width >= 0;
  const double step = r.width / (has_zero ? 254 : 255), zero = has_zero ? std::ceil(-r.lo / step) : 0, base = has_zero ? 0 : r.lo;
  const double q = std::clamp(std::floor((x - base) / step + zero + u), 0.0, 255.0);
  return (q - zero) * step + base;
}

}  // namespace tenon::mesa::reference
