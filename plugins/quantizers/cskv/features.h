// Features of tokens as they are stored: f32, bf16, or 4 bits on a grid of 16 levels from the least to the largest value (keys: of a channel
// over the tokens of a group; values: of a token over its channels).
#pragma once

#include "sdk/codec.h"

namespace tenon::cskv {

inline constexpr int64_t kGroup = 32;        // tokens
inline constexpr float kLeastScale = 1e-5f;  // of a grid

// Four-bit codes of c[rows, columns] on a grid for each row; lo and scale in bf16. Two codes a byte, the even element in the low half; rows
// begin at whole bytes.
inline void code_rows(const float* c, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride, uint8_t* codes, sdk::bf16* lo, sdk::bf16* scale) {
  const int64_t bytes = (columns + 1) / 2;
  for (int64_t r = 0; r < rows; ++r) {
    const float* const p = c + r * row_stride;
    float least = p[0], most = p[0];
    for (int64_t j = 1; j < columns; ++j) least = std::min(least, p[j * column_stride]), most = std::max(most, p[j * column_stride]);
    lo[r] = sdk::from_float<sdk::bf16>(least);
    const float base = sdk::to_float(lo[r]);
    scale[r] = sdk::from_float<sdk::bf16>(std::max((most - base) / 15, kLeastScale));
    const float inverse = 1 / sdk::to_float(scale[r]);
    uint8_t* const q = codes + r * bytes;
    std::fill(q, q + bytes, uint8_t{0});
    for (int64_t j = 0; j < columns; ++j) {
      const float level = std::nearbyint((p[j * column_stride] - base) * inverse);
      const auto code = static_cast<uint32_t>(std::clamp(level, 0.0f, 15.0f));
      q[j / 2] = static_cast<uint8_t>(q[j / 2] | code << (4 * (j & 1)));
    }
  }
}

inline void decode_rows(const uint8_t* codes, const sdk::bf16* lo, const sdk::bf16* scale, int64_t rows, int64_t columns, int64_t row_stride,
                        int64_t column_stride, float* c) {
  const int64_t bytes = (columns + 1) / 2;
  for (int64_t r = 0; r < rows; ++r) {
    const float base = sdk::to_float(lo[r]), step = sdk::to_float(scale[r]);
    const uint8_t* const q = codes + r * bytes;
    float* const p = c + r * row_stride;
    for (int64_t j = 0; j < columns; ++j) p[j * column_stride] = static_cast<float>(q[j / 2] >> (4 * (j & 1)) & 15) * step + base;
  }
}

}  // namespace tenon::cskv
