// Logarithm, sine and cosine in f32 without branches or tables, so that loops over them vectorize and every backend
// gives equal bits (explicit fused multiply-adds). Errors are stated in units in the last place.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "sdk/base.h"

namespace tenon::sdk {

namespace detail {
TN_FN float fused(float a, float b, float c) {
  return std::fma(a, b, c);
}
TN_FN double fused(double a, double b, double c) {
  return std::fma(a, b, c);
}
TN_FN float infinity() {
  return std::bit_cast<float>(0x7f800000u);
}
TN_FN float quiet_nan() {
  return std::bit_cast<float>(0x7fc00000u);
}
}  // namespace detail

// Natural logarithm, 1.2 ulp. 0 gives −inf, negative numbers and NaN give NaN.
TN_FN float vlog(float x) {
  using detail::fused;
  const bool tiny = x < 0x1p-126f;  // subnormals are scaled up
  const int32_t u = std::bit_cast<int32_t>(tiny ? x * 0x1p23f : x);
  const int32_t e = (u - 0x3f3504f3) >> 23;  // leaves the mantissa in [sqrt(1/2), sqrt(2))
  const float r = std::bit_cast<float>(u - (e << 23)) - 1.0f, n = static_cast<float>(e) - (tiny ? 23.0f : 0.0f);
  float p = 7.0376836292e-2f;
  p = fused(p, r, -1.1514610310e-1f);
  p = fused(p, r, 1.1676998740e-1f);
  p = fused(p, r, -1.2420140846e-1f);
  p = fused(p, r, 1.4249322787e-1f);
  p = fused(p, r, -1.6668057665e-1f);
  p = fused(p, r, 2.0000714765e-1f);
  p = fused(p, r, -2.4999993993e-1f);
  p = fused(p, r, 3.3333331174e-1f);
  const float r2 = r * r;
  const float tail = fused(-0.5f, r2, fused(n, -2.12194440e-4f, p * (r2 * r)));
  float y = fused(n, 0.693359375f, r + tail);
  y = x == detail::infinity() ? x : y;
  y = x == 0.0f ? -detail::infinity() : y;
  return x >= 0.0f ? y : detail::quiet_nan();
}

struct SinCos {
  float sin, cos;
};

// Both, 1.6 ulp for |x| < 2^30: the argument is reduced in double, so large rotary positions keep their accuracy.
TN_FN SinCos vsin_cos(float x) {
  using detail::fused;
  constexpr double kRound = 0x1.8p52;  // adding it rounds to an integer, which then stands in the low bits
  const double wide = x, shifted = fused(wide, 0.63661977236758134308, kRound), n = shifted - kRound;
  const float r = static_cast<float>(fused(n, -6.123233995736766e-17, fused(n, -1.5707963267948966, wide)));
  const int32_t quadrant = static_cast<int32_t>(std::bit_cast<int64_t>(shifted));
  const float r2 = r * r;
  float s = -1.9515295891e-4f;
  s = fused(s, r2, 8.3321608736e-3f);
  s = fused(s, r2, -1.6666654611e-1f);
  s = fused(s * r2, r, r);
  float c = 2.443315711809948e-5f;
  c = fused(c, r2, -1.388731625493765e-3f);
  c = fused(c, r2, 4.166664568298827e-2f);
  c = fused(c * r2, r2, fused(-0.5f, r2, 1.0f));
  const float sine = (quadrant & 1) != 0 ? c : s, cosine = (quadrant & 1) != 0 ? s : c;
  return {(quadrant & 2) != 0 ? -sine : sine, ((quadrant + 1) & 2) != 0 ? -cosine : cosine};
}

}  // namespace tenon::sdk
