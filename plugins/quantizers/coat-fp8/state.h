// Optimizer states: E4M3 codes in groups of 128 whose dynamic range is stretched to that of E4M3.
//
// A group holds a scale s, an exponent k and a middle c: x = sign(q) · (|q| · s)^(1/k) · c. With M the largest and μ the least non-zero
// magnitude, c = √(M μ), s = (M / c)^k / 448 and k = log2(448² / 2) / log2(M / μ), rounded down to sixteenths. So |q| = 448 · (|x| / M)^k.
#pragma once

#include "sdk/codec.h"
#include "sdk/fp8.h"
#include "sdk/vector_log.h"

namespace tenon::coat {

inline constexpr int64_t kStateGroup = 128, kGroupsOfBlock = 32;
inline constexpr float kLog2Range = 16.614710f;  // log2(448² / 2)
inline constexpr float kLog2Max = 8.8073549f;    // log2(448)
inline constexpr float kLeast = 1e-30f, kMostExpansion = 64.0f, kLeastExpansion = 0.0625f;

struct StateGroups {
  float *scale, *expansion, *middle;
};

// What coding one element needs: |q| = 2^(k · log2(|x| · first · second) + log2 448).
struct Stretch {
  float k, first, second;
};

// least: of the non-zero magnitudes; both 0 for a group of zeros, which keeps zeros for s, k and c.
TN_FN Stretch stretch(float largest, float least, bool expand, float* scale, float* expansion, float* middle) {
  if (!(largest > 0)) {
    *scale = *expansion = *middle = 0;
    return {1, 0, 0};
  }
  const float m = largest + kLeast, mu = least + kLeast;
  const float ratio = sdk::vlog2(m) - sdk::vlog2(mu);
  float k = 1;
  if (expand) {
    const float sixteenths = ratio > 0 ? 16.0f * kLog2Range / ratio : 16.0f * kMostExpansion;
    k = static_cast<float>(static_cast<int32_t>(sixteenths < 1024.0f ? sixteenths : 1024.0f)) * 0.0625f;
    k = k > kLeastExpansion ? k : kLeastExpansion;
  }
  // √(M μ) from halves of the exponents: the product itself may leave the range of f32.
  const float c = __builtin_sqrtf(m) * __builtin_sqrtf(mu);
  *middle = c, *expansion = k;
  *scale = sdk::vexp2(k * sdk::vlog2(m / c) - kLog2Max);
  const float first = m > 0x1p100f ? 0x1p-64f : 1.0f;  // 1 / M itself would be subnormal
  return {k, first, 1.0f / (m * first)};
}

TN_FN uint8_t state_code(const Stretch& s, float x) {
  const float magnitude = __builtin_fabsf(x) * s.first * s.second;
  const float t = magnitude > 0x1p-120f ? magnitude : 0x1p-120f;
  const float y = sdk::vexp2(s.k * sdk::vlog2(t) + kLog2Max);
  return sdk::to_e4m3(magnitude > 0 ? __builtin_copysignf(y, x) : 0.0f);
}

// log2 s and 1 / k of a group, and its c.
struct Shrink {
  float log2_scale, inverse, middle;
};
TN_FN Shrink shrink(float scale, float expansion, float middle) {
  return {expansion > 0 ? sdk::vlog2(scale) : 0.0f, expansion > 0 ? 1.0f / expansion : 0.0f, middle};
}
TN_FN float state_value(const Shrink& s, uint8_t code) {
  const uint32_t m = code & 0x7fu;
  const float q = sdk::e4m3_magnitude(m > 0 ? m : 1u);
  const float x = sdk::vexp2((sdk::vlog2(q) + s.log2_scale) * s.inverse) * s.middle;
  return m > 0 ? std::bit_cast<float>(std::bit_cast<uint32_t>(x) | (static_cast<uint32_t>(code) & 0x80u) << 24) : 0.0f;
}

template <class T>
struct EncodeState {
  const T* x;
  int64_t n;
  bool expand;
  uint8_t* codes;
  StateGroups groups;
  sdk::FirstBad::Found bad;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t count = sdk::ceil_div(n, kStateGroup), first = block.index * kGroupsOfBlock;
    const int64_t last = count - first < kGroupsOfBlock ? count : first + kGroupsOfBlock;
    for (int64_t g = first; g < last; ++g) {
      const int64_t begin = g * kStateGroup, length = n - begin < kStateGroup ? n - begin : kStateGroup;
      const T* const from = x + begin;
      // NaN counts as Inf, which orders above every finite number.
      const sdk::Block::Pair found = block.max2(length, {0, -__builtin_inff()}, [=](int64_t i) {
        const float v = __builtin_fabsf(sdk::to_float(from[i]));
        return sdk::Block::Pair{sdk::is_finite(v) ? v : __builtin_inff(), v > 0 ? -v : -__builtin_inff()};
      });
      if (!sdk::is_finite(found.first)) {
        const sdk::FirstBad::Found not_finite = bad;
        block.each(1, [=](int64_t) { not_finite(g); });
        continue;
      }
      float scale, expansion, middle;
      const Stretch s = stretch(found.first, -found.second, expand, &scale, &expansion, &middle);
      const StateGroups to = groups;
      block.each(1, [=](int64_t) { to.scale[g] = scale, to.expansion[g] = expansion, to.middle[g] = middle; });
      uint8_t* const q = codes + begin;
      block.each(length, [=](int64_t i) { q[i] = state_code(s, sdk::to_float(from[i])); });
    }
  }
};

template <class T>
void encode_state(const tn_exec* exec, const T* x, int64_t n, bool expand, uint8_t* codes, const StateGroups& groups, sdk::FirstBad::Found bad) {
  sdk::for_each_block(exec, sdk::ceil_div(n, kStateGroup * kGroupsOfBlock), EncodeState<T>{x, n, expand, codes, groups, bad}, kStateGroup * kGroupsOfBlock);
}

template <class T>
struct DecodeState {
  const uint8_t* codes;
  StateGroups groups;
  int64_t begin, end;
  T* dst;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t first = begin / kStateGroup + block.index * kGroupsOfBlock, count = sdk::ceil_div(end, kStateGroup);
    const int64_t last = count - first < kGroupsOfBlock ? count : first + kGroupsOfBlock;
    for (int64_t g = first; g < last; ++g) {
      const int64_t from = g * kStateGroup > begin ? g * kStateGroup : begin, stop = (g + 1) * kStateGroup < end ? (g + 1) * kStateGroup : end;
      const Shrink s = shrink(groups.scale[g], groups.expansion[g], groups.middle[g]);
      const uint8_t* const q = codes + from;
      T* const to = dst + (from - begin);
      block.each(stop - from, [=](int64_t i) { to[i] = sdk::from_float<T>(state_value(s, q[i])); });
    }
  }
};

template <class T>
void decode_state(const tn_exec* exec, const uint8_t* codes, const StateGroups& groups, int64_t begin, int64_t end, T* dst) {
  const int64_t count = begin < end ? sdk::ceil_div(end, kStateGroup) - begin / kStateGroup : 0;
  sdk::for_each_block(exec, sdk::ceil_div(count, kGroupsOfBlock), DecodeState<T>{codes, groups, begin, end, dst}, kStateGroup * kGroupsOfBlock);
}

}  // namespace tenon::coat
