// Normal numbers by Box and Muller (1958), four from each Philox block, without branches or tables. One source for a number and for vectors
// of them: every backend gives equal bits (fused multiply-adds where written, single roundings elsewhere).
#pragma once

#include "sdk/philox.h"

namespace tenon::sdk {

// What normal_pair computes with; sdk/box_muller_avx512.h has the same of 16 lanes.
struct OneLane {
  using Float = float;
  using Int = int32_t;
  TN_FN static float real(float x) { return x; }
  TN_FN static int32_t whole(int32_t x) { return x; }
  TN_FN static float fused(float a, float b, float c) { return std::fma(a, b, c); }
  TN_FN static float times(float a, float b) { return a * b; }
  TN_FN static float plus(float a, float b) { return a + b; }
  TN_FN static float root(float x) { return std::sqrt(x); }
  TN_FN static float to_real(int32_t x) { return static_cast<float>(x); }
  TN_FN static float as_real(int32_t x) { return std::bit_cast<float>(x); }
  TN_FN static int32_t bits(float x) { return std::bit_cast<int32_t>(x); }
  TN_FN static int32_t add(int32_t a, int32_t b) { return a + b; }
  TN_FN static int32_t subtract(int32_t a, int32_t b) { return a - b; }
  template <int kBy>
  TN_FN static int32_t left(int32_t x) {
    return static_cast<int32_t>(static_cast<uint32_t>(x) << kBy);
  }
  template <int kBy>
  TN_FN static int32_t right(int32_t x) {  // zeros come in
    return static_cast<int32_t>(static_cast<uint32_t>(x) >> kBy);
  }
  template <int kBy>
  TN_FN static int32_t right_signed(int32_t x) {
    return x >> kBy;
  }
  TN_FN static float by_low_bit(int32_t x, float odd, float even) { return (x & 1) != 0 ? odd : even; }
  TN_FN static float signed_by_bit_1(int32_t x, float v) { return (x & 2) != 0 ? -v : v; }
};

template <class Float>
struct NormalPair {
  Float first, second;
};

template <class L>
TN_FN typename L::Float next_term(typename L::Float p, typename L::Float x, float c) {
  return L::fused(p, x, L::real(c));
}
// Two normal numbers of two words: the upper 24 bits of one give the radius √(−2 ln u), those of the other the angle in turns, which is
// reduced to an eighth of a turn as an integer, exactly.
template <class L>
TN_FN NormalPair<typename L::Float> normal_pair(typename L::Int of_radius, typename L::Int of_angle) {
  using F = typename L::Float;
  using I = typename L::Int;
  // ln u as in vector_math's vlog, for u in [2^-24, 1].
  const I u = L::bits(L::times(L::plus(L::to_real(L::template right<8>(of_radius)), L::real(1.0f)), L::real(0x1p-24f)));
  const I e = L::template right_signed<23>(L::subtract(u, L::whole(0x3f3504f3)));
  const F r = L::plus(L::as_real(L::subtract(u, L::template left<23>(e))), L::real(-1.0f)), n = L::to_real(e), r2 = L::times(r, r);
  F p = next_term<L>(L::real(7.0376836292e-2f), r, -1.1514610310e-1f);
  p = next_term<L>(p, r, 1.1676998740e-1f), p = next_term<L>(p, r, -1.2420140846e-1f), p = next_term<L>(p, r, 1.4249322787e-1f);
  p = next_term<L>(p, r, -1.6668057665e-1f), p = next_term<L>(p, r, 2.0000714765e-1f), p = next_term<L>(p, r, -2.4999993993e-1f), p = next_term<L>(p, r, 3.3333331174e-1f);
  const F tail = L::fused(L::real(-0.5f), r2, L::fused(n, L::real(-2.12194440e-4f), L::times(p, L::times(r2, r))));
  const F radius = L::root(L::times(L::real(-2.0f), L::fused(n, L::real(0.693359375f), L::plus(r, tail))));
  const I turn = L::template right<8>(of_angle), quadrant = L::template right<22>(L::add(turn, L::whole(1 << 21)));
  const F x = L::times(L::to_real(L::subtract(turn, L::template left<22>(quadrant))), L::real(0x1p-24f * 6.28318530717958647692f)), x2 = L::times(x, x);
  F s = next_term<L>(next_term<L>(L::real(-1.9515295891e-4f), x2, 8.3321608736e-3f), x2, -1.6666654611e-1f);
  s = L::fused(L::times(s, x2), x, x);
  F c = next_term<L>(next_term<L>(L::real(2.443315711809948e-5f), x2, -1.388731625493765e-3f), x2, 4.166664568298827e-2f);
  c = L::fused(L::times(c, x2), x2, L::fused(L::real(-0.5f), x2, L::real(1.0f)));
  return {L::times(radius, L::signed_by_bit_1(L::add(quadrant, L::whole(1)), L::by_low_bit(quadrant, s, c))),
          L::times(radius, L::signed_by_bit_1(quadrant, L::by_low_bit(quadrant, c, s)))};
}

struct NormalFour {
  NormalPair<float> a, b;
};
// Elements 4 · block … 4 · block + 3 of the key's standard normal numbers.
TN_FN NormalFour normal_four(const tn_rng& key, uint64_t block) {
  const Words r = philox(key, block);
  return {normal_pair<OneLane>(static_cast<int32_t>(r.w[0]), static_cast<int32_t>(r.w[1])),
          normal_pair<OneLane>(static_cast<int32_t>(r.w[2]), static_cast<int32_t>(r.w[3]))};
}

}  // namespace tenon::sdk
