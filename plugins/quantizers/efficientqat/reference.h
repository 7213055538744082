// The fake quantization in f64, for finite differences: away from rounding edges its slopes are those that the straight-through rule keeps.
#pragma once

#include <cmath>

namespace tenon::efficientqat::reference {

// Roundings replace rne(x) by x + (rne(x0) − x0): the value is that of rounding at x0, the slope 1. A code that is in range at (w0, s0, z0)
// follows that slope, one that is not stays at its end of the range.
inline double value(double w, double s, double z, double w0, double s0, double z0, double top) {
  const double zr = z + (std::nearbyint(z0) - z0), t0 = std::nearbyint(w0 / s0) + std::nearbyint(z0);
  const double code = t0 < 0 ? 0 : t0 > top ? top : w / s + (std::nearbyint(w0 / s0) - w0 / s0) + zr;
  return (code - zr) * s;
}

}  // namespace tenon::efficientqat::reference
