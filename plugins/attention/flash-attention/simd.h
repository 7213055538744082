// Vectors of the widest registers that this object is compiled for, as GCC vector types.
#pragma once

#include <cstdint>
#include <cstring>

#include "sdk/vector_math.h"

namespace tenon::flash {

#if defined(__AVX512F__)
inline constexpr int64_t kLanes = 16, kPanelVectors = 4;  // 32 registers: 6 × 4 sums, 4 of B, 1 of A
#elif defined(__AVX2__)
inline constexpr int64_t kLanes = 8, kPanelVectors = 2;  // 16 registers: 6 × 2 sums, 2 of B, 1 of A
#else
inline constexpr int64_t kLanes = 4, kPanelVectors = 2;
#endif
inline constexpr int64_t kPanel = kLanes * kPanelVectors;  // columns of B that one micro-kernel covers
inline constexpr int64_t kRows = 6;                        // rows of A that one micro-kernel covers

using Vec = float __attribute__((vector_size(kLanes * sizeof(float))));

TN_FN Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
TN_FN void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
TN_FN Vec broadcast(float x) { return Vec{} + x; }
TN_FN Vec larger(Vec a, Vec b) { return a > b ? a : b; }

TN_FN float horizontal_max(Vec v) {
  float m = v[0];
  for (int64_t i = 1; i < kLanes; ++i) m = v[i] > m ? v[i] : m;
  return m;
}
// A tree: the order does not depend on anything but the width.
TN_FN float horizontal_sum(Vec v) {
  float s[kLanes];
  store(s, v);
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) s[i] += s[i + half];
  return s[0];
}

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Transposes a kLanes × kLanes block held in registers: log2(kLanes) rounds of swapping half-blocks.
TN_FN void transpose(Vec (&v)[kLanes]) {
  using Lanes = decltype(Vec{} < Vec{});
#pragma GCC unroll 5
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    Lanes low, high;
    for (int64_t i = 0; i < kLanes; ++i) {
      low[i] = static_cast<int32_t>(i & half ? kLanes + i - half : i);
      high[i] = static_cast<int32_t>(i & half ? kLanes + i : i + half);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes; ++i) {
      if (i & half) continue;
      const Vec a = v[i], b = v[i + half];
      v[i] = __builtin_shuffle(a, b, low);
      v[i + half] = __builtin_shuffle(a, b, high);
    }
  }
}

}  // namespace tenon::flash
