// 4096 quantiles of the unit normal: table noise. Computed once in double and rounded to f32, so every backend holds the same bits
// (a test compares their sum of bits with the golden one).
#pragma once

#include <array>
#include <cmath>

namespace tenon::sdk {

// Quantile of the unit normal for p in [1e-10, 1 - 1e-10], to 1e-16 relative (Wichura 1988, AS 241, PPND16).
inline double normal_quantile(double p) {
  const double q = p - 0.5;
  if (std::fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q *
           (((((((2509.0809287301226727 * r + 33430.575583588128105) * r + 67265.770927008700853) * r + 45921.953931549871457) * r +
               13731.693765509461125) * r + 1971.5909503065514427) * r + 133.14166789178437745) * r + 3.3871328727963666080) /
           (((((((5226.4952788528545610 * r + 28729.085735721942674) * r + 39307.895800092710610) * r + 21213.794301586595867) * r +
               5394.1960214247511077) * r + 687.18700749205790830) * r + 42.313330701600911252) * r + 1.0);
  }
  const double r = std::sqrt(-std::log(q < 0 ? p : 1 - p)) - 1.6;
  const double x =
      (((((((7.74545014278341407640e-4 * r + 0.0227238449892691845833) * r + 0.241780725177450611770) * r + 1.27045825245236838258) * r +
          3.64784832476320460504) * r + 5.76949722146069140550) * r + 4.63033784615654529590) * r + 1.42343711074968357734) /
      (((((((1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r + 0.0151986665636164571966) * r + 0.148103976427480074590) * r +
          0.689767334985100004550) * r + 1.67638483018380384940) * r + 2.05319162663775882187) * r + 1.0);
  return q < 0 ? -x : x;
}

// T[k] = quantile of (k + 1/2) / 4096, times 1.00016031, which makes the variance 1.
inline const float* normal_table() {
  static const std::array<float, 4096> table = [] {
    std::array<float, 4096> t{};
    for (int k = 0; k < 4096; ++k) t[k] = 1.00016031f * static_cast<float>(normal_quantile((k + 0.5) / 4096));
    return t;
  }();
  return table.data();
}

}  // namespace tenon::sdk
