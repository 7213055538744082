// Storage types and their conversion to f32, the type of all arithmetic.
#pragma once

#include <bit>
#include <cstdint>

#include "sdk/base.h"

namespace tenon::sdk {

// bfloat16: the upper half of an f32. Conversion rounds to nearest even; NaN stays NaN.
struct bf16 {
  uint16_t bits;
};
// IEEE half.
struct f16 {
  uint16_t bits;
};

TN_FN float to_float(float x) { return x; }
TN_FN float to_float(bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
TN_FN float to_float(f16 x) {
#if defined(__F16C__)
  return static_cast<float>(std::bit_cast<_Float16>(x.bits));
#else
  const uint32_t sign = (x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // 2^112 rebias; subnormals come out normal because the product is exact.
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude << 13) * 0x1p112f));
#endif
}

template <class T>
TN_FN T from_float(float x);
template <>
TN_FN float from_float<float>(float x) {
  return x;
}
template <>
TN_FN bf16 from_float<bf16>(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const uint32_t quiet = (u >> 16) | 0x40u;
  return {static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}
template <>
TN_FN f16 from_float<f16>(float x) {
#if defined(__F16C__)
  return {std::bit_cast<uint16_t>(static_cast<_Float16>(x))};
#else
  const uint32_t u = std::bit_cast<uint32_t>(x), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (magnitude < 0x38800000u) {  // subnormal half: let an f32 addition do the rounding
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(aligned) - 0x3f000000u))};
  }
  return {static_cast<uint16_t>(sign | ((magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13))};
#endif
}

inline constexpr tn_dtype kF32{TN_FLOAT, 32, 1}, kBF16{TN_BFLOAT, 16, 1}, kF16{TN_FLOAT, 16, 1}, kU8{TN_UINT, 8, 1}, kI32{TN_INT, 32, 1}, kI8{TN_INT, 8, 1},
    kF64{TN_FLOAT, 64, 1};
constexpr bool same(tn_dtype a, tn_dtype b) { return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes; }

template <class T>
constexpr tn_dtype dtype_of();
template <>
constexpr tn_dtype dtype_of<float>() {
  return kF32;
}
template <>
constexpr tn_dtype dtype_of<bf16>() {
  return kBF16;
}
template <>
constexpr tn_dtype dtype_of<int8_t>() {
  return kI8;
}
template <>
constexpr tn_dtype dtype_of<int32_t>() {
  return kI32;
}
template <>
constexpr tn_dtype dtype_of<f16>() {
  return kF16;
}

// Calls body with a value of the storage type that `d` names; refuses others with the sentence of `what`.
template <class Body>
decltype(auto) with_float_type(tn_dtype d, const char* what, Body&& body) {
  if (same(d, kF32)) return body(float{});
  if (same(d, kBF16)) return body(bf16{});
  if (same(d, kF16)) return body(f16{});
  fail(TN_E_UNSUPPORTED, std::string(what) + " must be f32, bf16 or f16");
}

}  // namespace tenon::sdk
