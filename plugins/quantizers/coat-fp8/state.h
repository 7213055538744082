// Optimizer states: E4M3 codes in groups of 128 whose dynamic range is stretched to that of E4M3.
//
// A group holds a scale s, an exponent k and a middle c: x = sign(q) · (|q| · s)^(1/k) · c. With M the largest and μ the least non-zero
// magnitude, c = √(M μ), s = (M / c)^k / 448 and k = log2(448² / 2) / log2(M / μ), rounded down to sixteenths. So |q| = 448 · (|x| / M)^k.
#pragma once

#include "quantizers/coat-fp8/state_code.h"
#include "sdk/codec.h"
#include "sdk/prefetch.h"
#include "sdk/vector_log.h"

namespace tenon::coat {

inline constexpr int64_t kGroupsOfBlock = 32;
inline constexpr float kLog2Range = 16.614710f;  // log2(448² / 2)
inline constexpr float kLog2Max = 8.8073549f;    // log2(448)
inline constexpr float kLeast = 1e-30f;

struct StateGroups {
  float *scale, *expansion, *middle;
};

// The least and the most k, in sixteenths; without expansion k is 1.
struct Expansions {
  int32_t least, most;
  explicit Expansions(bool expand) : least(expand ? 1 : 16), most(expand ? 1024 : 16) {}
};

// least: of the non-zero magnitudes, ∞ where there is none. A group of zeros keeps zeros for s, k and c. Without branches, for groups side by side.
TN_FN Stretch stretch(float largest, float least, const Expansions& range, float* scale, float* expansion, float* middle) {
  const float m = largest + kLeast, mu = (least < largest ? least : largest) + kLeast;
  const float ratio = sdk::vlog2(m) - sdk::vlog2(mu), sixteenths = 16.0f * kLog2Range / (ratio > 1e-6f ? ratio : 1e-6f);
  int32_t whole = static_cast<int32_t>(sixteenths);
  whole = whole < range.most ? whole : range.most;
  const float k = static_cast<float>(whole > range.least ? whole : range.least) * 0.0625f;
  // √(M μ) from halves of the exponents: the product itself may leave the range of f32.
  const float c = __builtin_sqrtf(m) * __builtin_sqrtf(mu), some = largest > 0 ? 1.0f : 0.0f;
  *middle = c * some, *expansion = k * some;
  *scale = sdk::vexp2(k * sdk::vlog2(m / c) - kLog2Max) * some;
  const float inverse = 1.0f / (m < 0x1p126f ? m : 0x1p126f);  // that of a larger one would be subnormal
  return {k * kUnit, inverse, (kLog2Max - k * (sdk::vlog2(m * inverse) - kLog2OfOneAndAHalf)) * kUnit};
}

// log2 s and 1 / k of a group, and its c.
struct Shrink {
  float log2_scale, inverse, middle;
};
TN_FN Shrink shrink(float scale, float expansion, float middle) {
  const bool some = expansion > 0;
  return {sdk::vlog2(some ? scale : 1.0f), some ? 1.0f / expansion : 0.0f, middle};
}

// A group's table (table.h) without its scale and k.
struct Entries {
  float log2[kTable];
};
TN_TABLE(Entries, kEntries,
         {{-6, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8,  //
          0, 0x1.5c01a4p-3f, 0x1.49a784p-2f, 0x1.d6753ep-2f, 0x1.2b8034p-1f, 0x1.66a008p-1f, 0x1.9d5da0p-1f, 0x1.d053f6p-1f,  //
          -1e30f, -3, -2, -0x1.6a3fe6p+0f, -1, -0x1.5b2c3ep-1f, -0x1.a8ff98p-2f, -0x1.8a8980p-3f}});
TN_FN float exponent_entry(const Shrink& s, int64_t i) { return sdk::vexp2((TN_TABLE_OF(kEntries).log2[i] + s.log2_scale) * s.inverse) * s.middle; }
TN_FN float mantissa_entry(const Shrink& s, int64_t i) { return sdk::vexp2(TN_TABLE_OF(kEntries).log2[kExponents + i] * s.inverse); }

// The largest magnitude, Inf or NaN if one is among them, and the least one that is not 0, ∞ if there is none.
struct Extremes {
  float largest, least;
};
template <class T>
TN_FN Extremes extremes([[maybe_unused]] const sdk::Block& block, int64_t n, const T* x) {
#if TN_GPU
  const sdk::Block::Pair found = block.max2(n, {0, -__builtin_inff()}, [=](int64_t i) {
    const float v = __builtin_fabsf(sdk::to_float(x[i]));
    return sdk::Block::Pair{sdk::is_finite(v) ? v : __builtin_inff(), v > 0 ? -v : -__builtin_inff()};
  });
  return {found.first, -found.second};
#else
  // Bits order as magnitudes do, and one less makes 0 the largest.
  uint32_t largest = 0, least = 0x7f800000u - 1;
#pragma omp simd reduction(max : largest) reduction(min : least)
  for (int64_t i = 0; i < n; ++i) {
    const float v = sdk::to_float(x[i]);
    const uint32_t magnitude = std::bit_cast<uint32_t>(v) & 0x7fffffffu, before = magnitude - 1;
    largest = magnitude > largest ? magnitude : largest;
    least = before < least ? before : least;
  }
  return {std::bit_cast<float>(largest), std::bit_cast<float>(least + 1)};
#endif
}

template <class T>
struct EncodeState {
  static constexpr int64_t kShared = 3 * kGroupsOfBlock * sizeof(float);
  const T* x;
  int64_t n;
  Expansions expansions;
  uint8_t* codes;
  StateGroups groups;
  sdk::FirstBad::Found bad;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t count = sdk::ceil_div(n, kStateGroup), first = block.index * kGroupsOfBlock;
    const int64_t here = count - first < kGroupsOfBlock ? count - first : kGroupsOfBlock;
    float *const k = block.shared<float>(), *const inverse = k + kGroupsOfBlock, *const offset = inverse + kGroupsOfBlock;
    for (int64_t g = 0; g < here; ++g) {
      const int64_t begin = (first + g) * kStateGroup, length = n - begin < kStateGroup ? n - begin : kStateGroup;
      const T* const from = x + begin;
      // A constant number of elements makes a loop without remainders.
      const Extremes found = length == kStateGroup ? extremes(block, kStateGroup, from) : extremes(block, length, from);
      const sdk::FirstBad::Found not_finite = bad;
      block.each(1, [=](int64_t) {
        k[g] = found.largest, inverse[g] = found.least;
        if (!sdk::is_finite(found.largest)) not_finite(first + g);
      });
    }
    const StateGroups to{groups.scale + first, groups.expansion + first, groups.middle + first};
    const Expansions range = expansions;
    block.each(here, [=](int64_t g) {
      const Stretch s = stretch(k[g], inverse[g], range, to.scale + g, to.expansion + g, to.middle + g);
      k[g] = s.k, inverse[g] = s.inverse, offset[g] = s.offset;
    });
    for (int64_t g = 0; g < here; ++g) {
      const int64_t begin = (first + g) * kStateGroup, length = n - begin < kStateGroup ? n - begin : kStateGroup;
      const Stretch s{k[g], inverse[g], offset[g]};
      const T* const from = x + begin;
      uint8_t* const q = codes + begin;
#if !TN_GPU
      // The next block's numbers come while these are computed.
      sdk::prefetch(from + kGroupsOfBlock * kStateGroup, kStateGroup);
      if (length == kStateGroup) {
        alignas(64) float values[std::is_same_v<T, float> ? 1 : kStateGroup];
        if constexpr (std::is_same_v<T, float>)
          encode_group(s, from, q);
        else
          sdk::convert(from, values, kStateGroup), encode_group(s, values, q);
        continue;
      }
#endif
      block.each(length, [=](int64_t i) { q[i] = state_code(s, sdk::to_float(from[i])); });
    }
  }
};

template <class T>
void encode_state(const tn_exec* exec, const T* x, int64_t n, bool expand, uint8_t* codes, const StateGroups& groups, sdk::FirstBad::Found bad) {
  sdk::for_each_block<EncodeState<T>::kShared>(exec, sdk::ceil_div(n, kStateGroup * kGroupsOfBlock), EncodeState<T>{x, n, Expansions(expand), codes, groups, bad},
                                               kStateGroup * kGroupsOfBlock);
}

#if TN_GPU

template <class T>
struct DecodeState {
  static constexpr int64_t kShared = kTable * kGroupsOfBlock * sizeof(float);
  const uint8_t* codes;
  StateGroups groups;
  int64_t begin, end;
  T* dst;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t first = begin / kStateGroup + block.index * kGroupsOfBlock, count = sdk::ceil_div(end, kStateGroup);
    const int64_t last = count - first < kGroupsOfBlock ? count : first + kGroupsOfBlock;
    float* const tables = block.shared<float>();
    const StateGroups of = groups;
    block.each((last - first) * kTable, [=](int64_t i) {
      const int64_t g = first + i / kTable, entry = i % kTable;
      const Shrink s = shrink(of.scale[g], of.expansion[g], of.middle[g]);
      tables[i] = entry < kExponents ? exponent_entry(s, entry) : mantissa_entry(s, entry - kExponents);
    });
    const int64_t from = first * kStateGroup > begin ? first * kStateGroup : begin, stop = last * kStateGroup < end ? last * kStateGroup : end;
    const uint8_t* const q = codes + from;
    T* const to = dst + (from - begin);
    const int64_t skipped = from - first * kStateGroup;
    block.each(stop - from, [=](int64_t i) { to[i] = sdk::from_float<T>(table_value(tables + (skipped + i) / kStateGroup * kTable, q[i])); });
  }
};

template <class T>
void decode_state(const tn_exec* exec, const uint8_t* codes, const StateGroups& groups, int64_t begin, int64_t end, T* dst) {
  const int64_t count = begin < end ? sdk::ceil_div(end, kStateGroup) - begin / kStateGroup : 0;
  sdk::for_each_block<DecodeState<T>::kShared>(exec, sdk::ceil_div(count, kGroupsOfBlock), DecodeState<T>{codes, groups, begin, end, dst},
                                               kStateGroup * kGroupsOfBlock);
}

#else

// The same with the tables in registers. Groups of which a part is asked for, and types other than f32, go through a buffer.
template <class T>
void decode_state(const tn_exec* exec, const uint8_t* codes, const StateGroups& groups, int64_t begin, int64_t end, T* dst) {
  const int64_t start = begin / kStateGroup, count = begin < end ? sdk::ceil_div(end, kStateGroup) - start : 0;
  sdk::for_each_block(
      exec, sdk::ceil_div(count, kGroupsOfBlock),
      [=](const sdk::Block& block) {
        const int64_t first = start + block.index * kGroupsOfBlock, here = std::min(start + count - first, kGroupsOfBlock);
        Shrink shrinks[kGroupsOfBlock];
        block.each(here, [&](int64_t g) { shrinks[g] = shrink(groups.scale[first + g], groups.expansion[first + g], groups.middle[first + g]); });
        for (int64_t g = 0; g < here; ++g) {
          alignas(64) float table[kTable];
          const Shrink s = shrinks[g];
          block.each(kExponents, [&](int64_t i) { table[i] = exponent_entry(s, i); });
          block.each(kTable - kExponents, [&](int64_t i) { table[kExponents + i] = mantissa_entry(s, i); });
          const int64_t at = (first + g) * kStateGroup, from = std::max(at, begin), stop = std::min(at + kStateGroup, end);
          if constexpr (std::is_same_v<T, float>) {
            if (stop - from == kStateGroup) {
              decode_group(table, codes + at, dst + (at - begin));
              continue;
            }
          }
          alignas(64) uint8_t part[kStateGroup] = {};
          alignas(64) float values[kStateGroup];
          const bool whole = stop - from == kStateGroup;
          if (!whole) std::memcpy(part + (from - at), codes + from, static_cast<size_t>(stop - from));
          decode_group(table, whole ? codes + at : part, values);
          sdk::convert(values + (from - at), dst + (from - begin), stop - from);
        }
      },
      kStateGroup * kGroupsOfBlock);
}

#endif

}  // namespace tenon::coat
