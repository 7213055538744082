// The kernels of sdk/integer/grouped_codec.h on the CPU: rows unpacked in chunks.
#pragma once

#include <vector>

#include "sdk/integer/grouped.h"

namespace tenon::sdk {

namespace grouped {

inline constexpr int64_t kChunk = 512;  // codes unpacked at a time: a multiple of 8
inline constexpr int64_t kMaxRows = 8;  // of a fused product
inline int64_t most_rows(const tn_target&, const GroupedSizes&) { return kMaxRows; }
inline uint64_t product_bytes(const GroupedSizes& s, int64_t rows) { return static_cast<uint64_t>(4 * rows * s.n); }  // x in f32

// The grid of one row.
struct RowGrid {
  std::vector<float> scale, zero;
  void read(const GroupedSizes& s, const GroupedParts& p, int64_t row) {
    scale.resize(static_cast<size_t>(s.groups)), zero.resize(static_cast<size_t>(s.groups));
    for (int64_t g = 0; g < s.groups; ++g) {
      scale[g] = p.scale(row * s.groups + g);
      zero[g] = static_cast<float>(code_at(p.zeros + row * s.zero_row, g, s.bits));
    }
  }
};

// value[0, stop − at) = inputs [at, stop) of a row; at most kChunk − 7 of them, or kChunk from a multiple of 8 on.
inline void decode_chunk(const GroupedSizes& s, const GroupedParts& p, const RowGrid& grid, int64_t row, int64_t at, int64_t stop, float* value) {
  uint8_t unpacked[kChunk + 8];
  const int64_t first = at & ~int64_t{7};
  unpack(p.codes + row * s.code_row, s.code_row, first, stop - first, s.bits, unpacked);
  const uint8_t* code = unpacked + (at - first);
  if (p.g_idx) {
    for (int64_t j = at; j < stop; ++j) value[j - at] = grid.scale[p.g_idx[j]] * (static_cast<float>(code[j - at]) - grid.zero[p.g_idx[j]]);
    return;
  }
  for (int64_t j = at; j < stop;) {
    const int64_t g = j / s.group, next = std::min(stop, (g + 1) * s.group);
    const float a = grid.scale[g], z = grid.zero[g];
    for (int64_t i = j; i < next; ++i) value[i - at] = a * (static_cast<float>(code[i - at]) - z);
    j = next;
  }
}

template <class T>
void decode_row(const GroupedSizes& s, const GroupedParts& p, const RowGrid& grid, int64_t row, int64_t begin, int64_t end, T* dst) {
  float value[kChunk];
  for (int64_t at = begin; at < end;) {
    const int64_t stop = std::min(end, (at & ~int64_t{7}) + kChunk);
    decode_chunk(s, p, grid, row, at, stop, value);
    convert(value, dst + (at - begin), stop - at);
    at = stop;
  }
}

// Dot products of weight row `row` with x[t], t < T.
template <int T>
void dot_row(const GroupedSizes& s, const GroupedParts& p, const RowGrid& grid, int64_t row, const float* const* x, float* out) {
  float value[kChunk], sums[T] = {};
  for (int64_t at = 0; at < s.n; at += kChunk) {
    const int64_t n = std::min(kChunk, s.n - at);
    decode_chunk(s, p, grid, row, at, at + n, value);
    for (int t = 0; t < T; ++t) {
      const float* from = x[t] + at;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < n; ++j) sum += value[j] * from[j];
      sums[t] += sum;
    }
  }
  for (int t = 0; t < T; ++t) out[t] = sums[t];
}

inline void decode(const tn_exec* exec, const GroupedSizes& s, const GroupedParts& parts, int64_t begin, int64_t end, tn_tensor& dst) {
  const int64_t first = begin / s.n, last = ceil_div(end, s.n);
  with_float_type(dst.dtype, "a decoded tensor", [&](auto type) {
    auto* to = data<decltype(type)>(dst);
    for_each_block(exec, last - first, [=, &s, &parts](const Block& block) {
      const int64_t row = first + block.index, a = std::max(begin, row * s.n), b = std::min(end, (row + 1) * s.n);
      thread_local RowGrid grid;
      grid.read(s, parts, row);
      decode_row(s, parts, grid, row, a - row * s.n, b - row * s.n, to + (a - begin));
    }, s.n);
  });
}

inline void multiply(const tn_exec* exec, const GroupedSizes& s, const GroupedParts& parts, const Product& p, const tn_tensor& x, double alpha,
                     double beta, tn_tensor& y) {
  const float* input = as_floats(exec, x);
  const float* xs[kMaxRows];
  for (int64_t t = 0; t < kMaxRows; ++t) xs[t] = input + (t < p.rows ? t : 0) * p.n;  // surplus sums of the next size up are dropped
  constexpr int64_t kRowsPerTask = 16;
  with_float_type(y.dtype, "the product", [&](auto type) {
    using Y = decltype(type);
    Y* out = data<Y>(y);
    for_each_block(exec, ceil_div(p.m, kRowsPerTask), [=, &s, &parts, &xs](const Block& task) {
      thread_local RowGrid grid;
      for (int64_t r = task.index * kRowsPerTask; r < std::min(p.m, (task.index + 1) * kRowsPerTask); ++r) {
        grid.read(s, parts, r);
        float sums[kMaxRows];
        if (p.rows == 1)
          dot_row<1>(s, parts, grid, r, xs, sums);
        else if (p.rows == 2)
          dot_row<2>(s, parts, grid, r, xs, sums);
        else if (p.rows <= 4)
          dot_row<4>(s, parts, grid, r, xs, sums);
        else
          dot_row<8>(s, parts, grid, r, xs, sums);
        for (int64_t t = 0; t < p.rows; ++t) {
          Y& to = out[t * p.m + r];
          to = from_float<Y>(static_cast<float>(alpha * sums[t] + (beta != 0 ? beta * to_float(to) : 0.0)));
        }
      }
    });
  });
}

}  // namespace grouped

}  // namespace tenon::sdk
