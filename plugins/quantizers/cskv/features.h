// Features of tokens as they are stored: f32, bf16, or 4 bits on a grid of 16 levels from the least to the largest value (keys: of a channel
// over the tokens of a group; values: of a token over its channels).
#pragma once

#include <cmath>

#include "sdk/floats.h"

namespace tenon::cskv {

inline constexpr int64_t kGroup = 32;        // tokens
inline constexpr float kLeastScale = 1e-5f;  // of a grid

// The features of groups, [group, token, channel], and their codes: a grid for each line of `length` values, `lines` of them a group; lo and step
// in bf16. Two codes a byte, the even element in the low half; lines begin at whole bytes.
struct Lines {
  int64_t lines, length, line_stride, step;  // distances between lines, and between the values of one
  float* values;
  uint8_t* codes;
  sdk::bf16 *lo, *scale;
  int64_t group_values;  // of a group

  // Keys (i = 0): a grid for each channel; values: for each token. `rank` channels.
  Lines(int i, int64_t rank, float* values, uint8_t* codes, sdk::bf16* lo, sdk::bf16* scale)
      : lines(i ? kGroup : rank), length(i ? rank : kGroup), line_stride(i ? rank : 1), step(i ? 1 : rank), values(values), codes(codes), lo(lo),
        scale(scale), group_values(kGroup * rank) {}
  TN_FN int64_t bytes() const { return (length + 1) / 2; }
  TN_FN float* line(int64_t index) const { return values + index / lines * group_values + index % lines * line_stride; }
};

inline void code_groups(const tn_exec* exec, int64_t groups, const Lines& all) {
  sdk::for_each_block(
      exec, groups * all.lines,
      [=] TN_KERNEL(const sdk::Block& block) {
        const Lines a = all;
        const float* const from = a.line(block.index);
        const sdk::Block::Pair ends =
            block.max2(a.length, {-from[0], from[0]}, [=](int64_t j) { return sdk::Block::Pair{-from[j * a.step], from[j * a.step]}; });
        const sdk::bf16 lo = sdk::from_float<sdk::bf16>(-ends.first);
        const float base = sdk::to_float(lo), wide = (ends.second - base) / 15;
        const sdk::bf16 step = sdk::from_float<sdk::bf16>(wide > kLeastScale ? wide : kLeastScale);
        const float inverse = 1 / sdk::to_float(step);
        const int64_t index = block.index;
        uint8_t* const to = a.codes + index * a.bytes();
        block.each(1, [=](int64_t) { a.lo[index] = lo, a.scale[index] = step; });
        block.each(a.bytes(), [=](int64_t b) {
          uint32_t byte = 0;
          for (int64_t j = 2 * b; j < 2 * b + 2 && j < a.length; ++j) {
            const float level = std::nearbyint((from[j * a.step] - base) * inverse);
            byte |= static_cast<uint32_t>(level < 0 ? 0 : level > 15 ? 15 : level) << (4 * (j & 1));
          }
          to[b] = static_cast<uint8_t>(byte);
        });
      },
      all.length);
}

inline void decode_groups(const tn_exec* exec, int64_t groups, const Lines& all) {
  sdk::for_each_block(
      exec, groups * all.lines,
      [=] TN_KERNEL(const sdk::Block& block) {
        const Lines a = all;
        const float base = sdk::to_float(a.lo[block.index]), scale = sdk::to_float(a.scale[block.index]);
        const uint8_t* const from = a.codes + block.index * a.bytes();
        float* const to = a.line(block.index);
        block.each(a.length, [=](int64_t j) { to[j * a.step] = static_cast<float>(from[j / 2] >> (4 * (j & 1)) & 15) * scale + base; });
      },
      all.length);
}

}  // namespace tenon::cskv
