// 8-bit floats E4M3: 4 bits of exponent with bias 7, 3 of mantissa, no infinity, largest 448 (the OCP's E4M3FN).
#pragma once

#include <bit>
#include <cstdint>

#include "sdk/dtype.h"

namespace tenon::sdk {

inline constexpr float kE4M3Max = 448.0f;

// To nearest even, saturating; without branches, so that loops vectorize. NaN is the caller's matter.
TN_FN uint8_t to_e4m3(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x), a = u & 0x7fffffffu;
  const uint32_t rounded = ((a + 0x7ffffu + ((a >> 20) & 1u)) >> 20) - (120u << 3);
  const uint32_t normal = a >= 0x43e00000u ? 0x7eu : rounded;  // from 448 on
  // Below 2^-6 codes count units of 2^-9, the last place of 1.5 · 2^14.
  const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(a) + 0x1.8p14f) - 0x46c00000u;
  return static_cast<uint8_t>((a < 0x3c800000u ? small : normal) | (u >> 24 & 0x80u));
}

// Of a code without its sign, 0 … 0x7e.
TN_FN float e4m3_magnitude(uint32_t m) {
  const float normal = std::bit_cast<float>((m << 20) + (120u << 23));
  const float small = std::bit_cast<float>((m << 20) + (121u << 23)) - 0x1p-6f;
  return m < 8 ? small : normal;
}

TN_FN float from_e4m3(uint8_t code) {
  const uint32_t magnitude = std::bit_cast<uint32_t>(e4m3_magnitude(code & 0x7fu));
  return std::bit_cast<float>(magnitude | (static_cast<uint32_t>(code) & 0x80u) << 24);
}

// A code's number times 2^-120, in three operations: exponent and mantissa at their places, subnormal codes as denormal f32. Times a factor that holds the
// rest of the power it is the number itself.
TN_FN float tiny_from_e4m3(uint8_t code) {
  const uint32_t extended = static_cast<uint32_t>(static_cast<int32_t>(static_cast<int8_t>(code)));
  return std::bit_cast<float>(extended << 20 & 0x87f00000u);
}

// bf16 holds every code.
TN_FN bf16 e4m3_as_bf16(uint8_t code) { return {static_cast<uint16_t>(std::bit_cast<uint32_t>(from_e4m3(code)) >> 16)}; }

}  // namespace tenon::sdk
