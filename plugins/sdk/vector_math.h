// Transcendental functions without branches or tables: one source for scalars (CPU loops that vectorize, CUDA, HIP) and
// for GCC vector types.
//
// F is float or a vector of floats. Results are within 1.2 units in the last place of the exact value (vtanh: 4) over
// all of f32; NaN stays NaN.
#pragma once

#include <bit>
#include <cstdint>

#include "sdk/base.h"

namespace tenon::sdk {

template <class F>
struct FloatLanes {
  // The integer vector of the same shape.
  using Int = decltype(F{} < F{});
  static constexpr int64_t kCount = sizeof(F) / sizeof(float);
};
template <>
struct FloatLanes<float> {
  using Int = int32_t;
  static constexpr int64_t kCount = 1;
};

namespace detail {

// Adding and subtracting 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
inline constexpr float kRound = 0x1.8p23f;

template <class F>
TN_FN F nearest(F x) {
  return (x + kRound) - kRound;
}

// 2^n for an integral n in [-127, 128); 2^-127 is given as 0.
template <class F>
TN_FN F power_of_two(F n) {
  using Int = typename FloatLanes<F>::Int;
  const Int bits = __builtin_bit_cast(Int, n + kRound);
  return __builtin_bit_cast(F, (bits + 127) << 23);
}

// 2^f - 1 for |f| <= 1/2: minimax in relative error, 1.1e-8.
template <class F>
TN_FN F exp2_minus_one(F f) {
  F p = 0x1.4308fap-13f * f + 0x1.5f07b4p-10f;
  p = p * f + 0x1.3b2ba0p-7f;
  p = p * f + 0x1.c6af6ep-5f;
  p = p * f + 0x1.ebfbdep-3f;
  p = p * f + 0x1.62e430p-1f;
  return p * f;
}

}  // namespace detail

// 2^x for x <= 127; 0 below 2^-126.
template <class F>
TN_FN F vexp2(F x) {
  x = x < -127.0f ? F{} - 127.0f : x;
  const F n = detail::nearest(x);
  return (detail::exp2_minus_one(x - n) + 1.0f) * detail::power_of_two(n);
}

// e^x for every x.
template <class F>
TN_FN F vexp(F x) {
  x = x < -104.0f ? F{} - 104.0f : x;
  x = x > 89.0f ? F{} + 89.0f : x;
  const F n = detail::nearest(x * 0x1.715476p+0f);
  // The first part of ln 2 has 15 bits, so its product with n is exact.
  const F r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  F p = 0x1.6c16a6p-10f * r + 0x1.123ce2p-7f;
  p = p * r + 0x1.555652p-5f;
  p = p * r + 0x1.55547ep-3f;
  p = p * r + 0x1.fffffep-2f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // Two factors: n = 128 occurs although 2^128 is no f32.
  const F half = detail::nearest(n * 0.5f);
  return p * detail::power_of_two(half) * detail::power_of_two(n - half);
}

template <class F>
TN_FN F vtanh(F x) {
  const F magnitude = x < 0.0f ? -x : x;
  const F y = (magnitude > 9.1f ? F{} + 9.1f : magnitude) * 0x1.715476p+1f;  // 2|x| log2(e); tanh(9.1) rounds to 1
  const F n = detail::nearest(y), scale = detail::power_of_two(n);
  const F e = scale * detail::exp2_minus_one(y - n) + (scale - 1.0f);  // exp(2|x|) - 1 without cancellation
  const F t = e / (e + 2.0f);
  return x < 0.0f ? -t : t;
}

}  // namespace tenon::sdk
