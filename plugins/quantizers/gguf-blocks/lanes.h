// Sixteen f32 side by side, in registers as wide as the CPU has. Sums have one order on every CPU, so that every object
// writes the same bytes.
#pragma once

#include <cstdint>
#include <cstring>

#include "quantizers/gguf-blocks/bytes.h"

namespace tenon::gguf {

#if TN_GPU
inline constexpr int kRegister = 1;
#elif defined(__AVX512F__)
inline constexpr int kRegister = 16;
#elif defined(__AVX__)
inline constexpr int kRegister = 8;
#else
inline constexpr int kRegister = 4;
#endif

struct Lanes {
  static constexpr int kRegisters = 16 / kRegister;
#if TN_GPU
  using Register = float;
#else
  typedef float Register __attribute__((vector_size(4 * kRegister)));
#endif
  Register r[kRegisters] = {};

  template <class F>
  static TN_FN Lanes map(F f) {
    Lanes out;
    for (int i = 0; i < kRegisters; ++i) out.r[i] = f(i);
    return out;
  }
};

TN_LARGE_FN Lanes fill(float x) {
  return Lanes::map([&](int) { return Lanes::Register{} + x; });
}
TN_LARGE_FN Lanes load(const float* p) {
  Lanes v;
  std::memcpy(v.r, p, sizeof v.r);
  return v;
}
TN_LARGE_FN void store(float* p, const Lanes& v) {
  std::memcpy(p, v.r, sizeof v.r);
}

TN_LARGE_FN Lanes operator+(const Lanes& a, const Lanes& b) {
  return Lanes::map([&](int i) { return a.r[i] + b.r[i]; });
}
TN_LARGE_FN Lanes operator-(const Lanes& a, const Lanes& b) {
  return Lanes::map([&](int i) { return a.r[i] - b.r[i]; });
}
TN_LARGE_FN Lanes operator*(const Lanes& a, const Lanes& b) {
  return Lanes::map([&](int i) { return a.r[i] * b.r[i]; });
}
TN_LARGE_FN Lanes operator/(const Lanes& a, const Lanes& b) {
  return Lanes::map([&](int i) { return a.r[i] / b.r[i]; });
}
TN_LARGE_FN Lanes& operator+=(Lanes& a, const Lanes& b) {
  return a = a + b;
}
// a >= b ? x : y
TN_LARGE_FN Lanes select_not_less(const Lanes& a, const Lanes& b, const Lanes& x, const Lanes& y) {
  return Lanes::map([&](int i) { return a.r[i] >= b.r[i] ? x.r[i] : y.r[i]; });
}

// Halves are added until one is left.
TN_LARGE_FN float sum(const Lanes& v) {
#if TN_GPU
  float eights[8], fours[4];
  for (int i = 0; i < 8; ++i) eights[i] = v.r[i] + v.r[i + 8];
  for (int i = 0; i < 4; ++i) fours[i] = eights[i] + eights[i + 4];
  return (fours[0] + fours[2]) + (fours[1] + fours[3]);
#else
  typedef float Eight __attribute__((vector_size(32)));
  typedef float Four __attribute__((vector_size(16)));
  Eight eights[2];
  Four fours[2];
  std::memcpy(eights, v.r, sizeof v.r);
  eights[0] += eights[1];
  std::memcpy(fours, eights, sizeof fours);
  fours[0] += fours[1];
  return (fours[0][0] + fours[0][2]) + (fours[0][1] + fours[0][3]);
#endif
}

// Nearest integer, ties to even; |x| < 2^22.
TN_LARGE_FN Lanes round_even(const Lanes& x) {
  return (x + fill(0x1.8p23f)) - fill(0x1.8p23f);
}
TN_LARGE_FN float round_even(float x) {
  return (x + 0x1.8p23f) - 0x1.8p23f;
}
TN_LARGE_FN Lanes clamp(const Lanes& x, float low, float high) {
  const Lanes l = fill(low), h = fill(high), a = select_not_less(x, l, x, l);
  return select_not_less(h, a, a, h);
}
TN_LARGE_FN Lanes magnitude(const Lanes& x) {
  const Lanes zero;
  return select_not_less(x, zero, x, zero - x);
}

}  // namespace tenon::gguf
