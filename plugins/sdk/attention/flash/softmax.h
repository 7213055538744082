// The online softmax of one tile of scores: row maxima and sums move forward, scores become weights, and what was
// summed before is brought to the new maximum.
#pragma once

#include "sdk/attention/flash/problem.h"
#include "sdk/panel/gemm.h"

namespace tenon::sdk::flash {

// A row tile on its way over the keys. sum: Σ exp2(S − top); out: Σ exp2(S − top) · V, [rows, e_padded].
struct Running {
  float* top;
  float* sum;
  float* out;
};

inline void clear(const Problem& p, int64_t rows, Running& run) {
  for (int64_t r = 0; r < rows; ++r) run.top[r] = -INFINITY, run.sum[r] = 0.0f;
  std::memset(run.out, 0, sizeof(float) * rows * p.e_padded);
}

inline void scale_row(float* row, int64_t n, float by) {
  for (int64_t c = 0; c < n; c += kLanes) store(row + c, load(row + c) * by);
}

inline void bend(float* row, int64_t n, float cap) {
  for (int64_t c = 0; c < n; c += kLanes) store(row + c, sdk::vtanh(load(row + c)) * cap);
}

// One row of n scores (a multiple of kLanes) in units of log 2.
inline void softmax_row(float* score, int64_t n, float& top, float& sum, float* out, int64_t out_width) {
  Vec high = load(score);
  for (int64_t c = kLanes; c < n; c += kLanes) high = larger(load(score + c), high);
  const float tile_top = horizontal_max(high), new_top = tile_top > top ? tile_top : top;
  if (new_top > top) {
    const float shrink = sdk::vexp2(top - new_top);
    sum *= shrink;
    scale_row(out, out_width, shrink);
    top = new_top;
  }
  const Vec base = broadcast(new_top == -INFINITY ? 0.0f : new_top);  // nothing seen yet: exp2(−inf − 0) = 0
  Vec total{};
  for (int64_t c = 0; c < n; c += kLanes) {
    const Vec weight = exp2_of(load(score + c) - base);
    total += weight;
    store(score + c, weight);
  }
  sum += horizontal_sum(total);
}

}  // namespace tenon::sdk::flash
