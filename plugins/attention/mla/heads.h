// Which dimensions of a head turn with the position and which do not, and the kernels that take heads apart and put them together.
#pragma once

#include "sdk/for_each.h"
#include "sdk/mixer.h"
#include "sdk/vector_trig.h"

namespace tenon::mla {

// Of a head of `width`: the first `cut` still dimensions lie from `first` on, the others from `second` on; pair i of the turning ones is
// (low + i, high + i).
struct Split {
  int64_t width, still, turning;
  int64_t first, cut, second, low, high;

  // The pairs (i, i + d/2) of Llama stay together; those of the highest frequencies turn.
  static Split pairs(int64_t d, int64_t still, int64_t turning) { return {d, still, turning, turning / 2, d / 2 - turning / 2, d / 2 + turning / 2, 0, d / 2}; }
  // The first dimensions are still, the last turn, in pairs of their own (X-EcoMLA).
  static Split last(int64_t d, int64_t still, int64_t turning) { return {d, still, turning, 0, still, 0, d - turning, d - turning / 2}; }
  // Heads that hold the still dimensions and then the turning ones.
  static Split joined(int64_t still, int64_t turning) { return {still + turning, still, turning, 0, still, 0, still, still + turning / 2}; }

  TN_FN int64_t still_at(int64_t c) const { return c < cut ? first + c : second + c - cut; }
  // c counts the lower halves of all pairs, then the upper ones.
  TN_FN int64_t turning_at(int64_t c) const { return c < turning / 2 ? low + c : high + c - turning / 2; }
};

// Rows of heads: element (row, head, c) at data[row · row_stride + head · head_stride + c].
template <class T>
struct Heads {
  T* data;
  int64_t row_stride, head_stride;
  TN_FN T* at(int64_t row, int64_t head) const { return data + row * row_stride + head * head_stride; }
};

struct Turn {
  const int32_t* positions;
  const float* inv_freq;  // [turning / 2], or null where nothing turns
  TN_FN sdk::SinCos at(int64_t row, int64_t pair) const { return sdk::vsin_cos(static_cast<float>(positions[row]) * inv_freq[pair]); }
};

// Queries: their still part, and their turning part turned. One block a row and head.
template <class T>
struct SplitQueries {
  Split split;
  Turn turn;
  int64_t heads;
  Heads<const T> q;
  Heads<T> still, turning;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t row = block.index / heads, h = block.index % heads, half = split.turning / 2;
    const T* const from = q.at(row, h);
    T *const a = still.at(row, h), *const b = turning.at(row, h);
    const Split s = split;
    const Turn t = turn;
    block.each(s.still, [=](int64_t c) { a[c] = from[s.still_at(c)]; });
    block.each(half, [=](int64_t i) {
      const sdk::SinCos v = t.at(row, i);
      const float x = sdk::to_float(from[s.low + i]), y = sdk::to_float(from[s.high + i]);
      b[i] = sdk::from_float<T>(x * v.cos - y * v.sin), b[half + i] = sdk::from_float<T>(y * v.cos + x * v.sin);
    });
  }
};

// The gradient's way back, a block a row and head; dimensions that were not used get 0.
template <class T>
struct JoinQueryGradient {
  Split split;
  Turn turn;
  int64_t heads;
  Heads<const T> still, turning;
  Heads<T> dq;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t row = block.index / heads, h = block.index % heads, half = split.turning / 2;
    const T *const a = still.at(row, h), *const b = turning.at(row, h);
    T* const to = dq.at(row, h);
    const Split s = split;
    const Turn t = turn;
    block.each(s.width, [=](int64_t c) { to[c] = sdk::from_float<T>(0.0f); });
    block.each(s.still, [=](int64_t c) { to[s.still_at(c)] = a[c]; });
    block.each(half, [=](int64_t i) {
      const sdk::SinCos v = t.at(row, i);
      const float x = sdk::to_float(b[i]), y = sdk::to_float(b[half + i]);
      to[s.low + i] = sdk::from_float<T>(x * v.cos + y * v.sin), to[s.high + i] = sdk::from_float<T>(y * v.cos - x * v.sin);
    });
  }
};

// Keys of every head: the still part of each, and the one turning part [row, turning] that all share, turned. One block a row and head.
template <class T>
struct JoinKeys {
  Turn turn;
  int64_t heads, still, turning;
  const T *of_head, *shared;  // [row, head, still], [row, turning]
  T* k;                       // [row, head, still + turning]
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t row = block.index / heads, h = block.index % heads, half = turning / 2, n = still;
    const T* const pair = shared + row * turning;
    const Turn t = turn;
    const T* const from = of_head + (row * heads + h) * n;
    T* const to = k + (row * heads + h) * (n + turning);
    block.each(n, [=](int64_t c) { to[c] = from[c]; });
    block.each(half, [=](int64_t i) {
      const sdk::SinCos v = t.at(row, i);
      const float x = sdk::to_float(pair[i]), y = sdk::to_float(pair[half + i]);
      to[n + i] = sdk::from_float<T>(x * v.cos - y * v.sin), to[n + half + i] = sdk::from_float<T>(y * v.cos + x * v.sin);
    });
  }
};

template <class T>
struct SplitKeyGradient {
  Turn turn;
  int64_t heads, still, turning;
  const T* dk;
  T *of_head, *shared;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t row = block.index, half = turning / 2, n = still, width = still + turning, all = heads;
    const T* const from = dk + row * all * width;
    T *const to = of_head + row * all * n, *const pair = shared + row * turning;
    const Turn t = turn;
    block.each(all * n, [=](int64_t i) { to[i] = from[i / n * width + i % n]; });
    block.each(half, [=](int64_t i) {
      float x = 0, y = 0;
      for (int64_t h = 0; h < all; ++h) x += sdk::to_float(from[h * width + n + i]), y += sdk::to_float(from[h * width + n + half + i]);
      const sdk::SinCos v = t.at(row, i);
      pair[i] = sdk::from_float<T>(x * v.cos + y * v.sin), pair[half + i] = sdk::from_float<T>(y * v.cos - x * v.sin);
    });
  }
};

// What the cache keeps of a token: its latent, and its turning part turned.
template <class T>
struct Remember {
  Turn turn;
  int64_t rank, turning;
  const T *latent, *shared;
  T* cache;  // [row, rank + turning]
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t row = block.index, half = turning / 2, n = rank;
    const T *const c = latent + row * n, *const pair = shared + row * turning;
    T* const to = cache + row * (n + turning);
    const Turn t = turn;
    block.each(n, [=](int64_t i) { to[i] = c[i]; });
    block.each(half, [=](int64_t i) {
      const sdk::SinCos v = t.at(row, i);
      const float x = sdk::to_float(pair[i]), y = sdk::to_float(pair[half + i]);
      to[n + i] = sdk::from_float<T>(x * v.cos - y * v.sin), to[n + half + i] = sdk::from_float<T>(y * v.cos + x * v.sin);
    });
  }
};

}  // namespace tenon::mla
