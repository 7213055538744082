// Vectors of the widest registers that this object is compiled for, as GCC vector types.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "sdk/intrinsics.h"
#include "sdk/panel/lanes.h"
#include "sdk/vector_math.h"

namespace tenon::sdk::panel {

using Vec = float __attribute__((vector_size(kLanes * sizeof(float))));

TN_FN Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
TN_FN void store(float* p, Vec v) {
  std::memcpy(p, &v, sizeof v);
}
TN_FN Vec broadcast(float x) {
  return x - Vec{};
}  // x − 0 is x, so this is one broadcast; x + 0 would be an addition
// a > b ? a : b, as one instruction where the compiler would compare and blend.
TN_FN Vec larger(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
// sdk::vexp2(), in fewer instructions where there are some for its steps: the same bits from 2^-126 on, denormals or 0 below.
TN_FN Vec exp2_of(Vec x) {
#if defined(__AVX512F__)
  x = larger(broadcast(-192.0f), x);
  const Vec whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT);
  return _mm512_scalef_ps(sdk::detail::exp2_minus_one(x - whole) + 1.0f, whole);
#else
  return sdk::vexp2(x);
#endif
}

using LaneOrder = std::make_integer_sequence<int, kLanes>;
// v with lanes i and i ^ Half exchanged.
template <int Half, int... I>
TN_FN Vec exchange(Vec v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I ^ Half)...);
}
template <int Half = kLanes / 2>
TN_FN float horizontal_max(Vec v) {
  if constexpr (Half == 0) {
    return v[0];
  } else {
    return horizontal_max<Half / 2>(larger(v, exchange<Half>(v, LaneOrder{})));
  }
}
// A tree: the order depends on nothing but the width.
template <int Half = kLanes / 2>
TN_FN float horizontal_sum(Vec v) {
  if constexpr (Half == 0) {
    return v[0];
  } else {
    return horizontal_sum<Half / 2>(v + exchange<Half>(v, LaneOrder{}));
  }
}

// Of two rows, the lanes that meet in the first and in the second row after half-blocks of Half lanes are swapped.
template <int Half, int... I>
TN_FN void swap_halves(Vec& a, Vec& b, std::integer_sequence<int, I...>) {
  const Vec low = __builtin_shufflevector(a, b, (I & Half ? int{kLanes} + I - Half : I)...);
  b = __builtin_shufflevector(a, b, (I & Half ? int{kLanes} + I : I + Half)...);
  a = low;
}

// Transposes a kLanes × kLanes block held in registers: log2(kLanes) rounds of swapping half-blocks.
template <int Half = kLanes / 2>
TN_FN void transpose(Vec (&v)[kLanes]) {
  if constexpr (Half > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i)
      if (!(i & Half)) swap_halves<Half>(v[i], v[i + Half], LaneOrder{});
    transpose<Half / 2>(v);
  }
}

}  // namespace tenon::sdk::panel
