// Keys and values in the layouts that the micro-kernels like, converted to f32 on the way.
#pragma once

#include "sdk/attention/ports.h"
#include "sdk/panel/simd.h"

namespace tenon::sdk::panel {

inline constexpr int64_t kAhead = 24;      // rows that are fetched before they are read

// Rows [begin, end) of one head as f32 [end − begin, padded], zero beyond the head's width.
inline void pack_rows(const sdk::HeadRows& x, int64_t b, int64_t h, int64_t begin, int64_t end, int64_t padded,
                      float* to) {
  for (int64_t t = begin; t < end; ++t, to += padded) {
    if (t + kAhead < end) x.prefetch(b, t + kAhead, h);
    x.read(b, t, h, 1.0f, to);
    for (int64_t c = x.width; c < padded; ++c) to[c] = 0.0f;
  }
}

// Rows [begin, end) of one head transposed into panels [width, kPanel], the last one filled up with zeros. Takes
// round_up(end − begin, kPanel) · width floats.
inline void pack_transposed(const sdk::HeadRows& x, int64_t b, int64_t h, int64_t begin, int64_t end, float* to) {
  alignas(64) float rows[kLanes * kMaxWidth];
  const int64_t padded = round_up(x.width, kLanes);
  for (int64_t t = begin; t < begin + round_up(end - begin, kPanel); t += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) {
      float* row = rows + i * padded;
      if (t + i + kAhead < end) x.prefetch(b, t + i + kAhead, h);
      if (t + i < end) {
        pack_rows(x, b, h, t + i, t + i + 1, padded, row);
      } else {
        for (int64_t c = 0; c < padded; ++c) row[c] = 0.0f;
      }
    }
    float* panel = to + (t - begin) / kPanel * kPanel * x.width + (t - begin) % kPanel;
    for (int64_t c = 0; c < x.width; c += kLanes) {
      Vec block[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) block[i] = load(rows + i * padded + c);
      transpose(block);
      for (int64_t i = 0; i < kLanes && c + i < x.width; ++i) store(panel + (c + i) * kPanel, block[i]);
    }
  }
}

}  // namespace tenon::sdk::panel
