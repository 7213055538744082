// Sixteen f32 side by side. The sums of the searches have one order on every CPU, so that every object writes the same bytes.
#pragma once

#include <cstdint>
#include <cstring>

namespace tenon::gguf {

using Lanes = float __attribute__((vector_size(64)));

inline Lanes load(const float* p) {
  Lanes v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, const Lanes& v) { std::memcpy(p, &v, sizeof v); }
inline Lanes fill(float x) { return Lanes{} + x; }

inline float sum(const Lanes& v) {
  float a[16];
  store(a, v);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a[i] += a[i + half];
  return a[0];
}

// Nearest integer, ties to even; |x| < 2^22.
inline Lanes round_even(const Lanes& x) { return (x + 0x1.8p23f) - 0x1.8p23f; }
inline float round_even(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }
inline Lanes clamp(const Lanes& x, float low, float high) {
  const Lanes a = x < low ? fill(low) : x;
  return a > high ? fill(high) : a;
}
inline Lanes magnitude(const Lanes& x) { return x < 0.0f ? -x : x; }

}  // namespace tenon::gguf
