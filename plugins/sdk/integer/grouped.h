// Weights [m, n] as integers on uniform grids: groups of inputs share a scale and a zero point, w = scale · (code − zero). What gptq and
// efficientqat store, and how it is decoded and multiplied.
#pragma once

#include <vector>

#include "sdk/codec.h"
#include "sdk/integer/bits.h"

namespace tenon::sdk {

// Sizes of a weight; the last axis of the target is the input, those before it are rows.
struct GroupedSizes {
  int64_t m = 0, n = 0, group = 1, groups = 0, code_row = 0, zero_row = 0;
  int bits = 4, scale_bits = 16;
  bool indexed = false;  // a group is no run of neighbouring inputs, so that every input names its own

  // group_size −1: the whole row.
  GroupedSizes(const tn_target& target, int bits, int64_t group_size) : bits(bits) {
    const int64_t all = elements(target);
    n = target.ndim > 0 ? target.shape[target.ndim - 1] : 1;
    m = n > 0 ? all / n : 0;
    group = group_size < 0 ? std::max<int64_t>(n, 1) : group_size;
    groups = ceil_div(n, group);
    code_row = row_bytes(n, bits), zero_row = row_bytes(groups, bits);
  }
  int64_t bytes() const { return m * (code_row + zero_row + scale_bits / 8 * groups) + (indexed ? 4 * n : 0); }
};

inline void declare_grouped(const tn_component_sink& sink, const GroupedSizes& s, uint32_t scale_flags = 0) {
  const uint32_t bits = static_cast<uint32_t>(s.bits);
  declare(sink, "codes", kU8, s.m * s.code_row, bits);
  declare(sink, "scales", s.scale_bits == 32 ? kF32 : kF16, s.m * s.groups, 0, scale_flags);
  declare(sink, "zeros", kU8, s.m * s.zero_row, bits);
  if (s.indexed) declare(sink, "g_idx", kI32, s.n);
}

// The components, typed and checked.
struct GroupedParts {
  uint8_t *codes, *zeros;  // [m, code_row], [m, zero_row] bytes
  f16* scales = nullptr;   // [m, groups], or
  float* wide = nullptr;   // the same in f32
  int32_t* g_idx = nullptr;  // [n], or null

  GroupedParts(const GroupedSizes& s, tn_tensor* const* components)
      : codes(component<uint8_t>(components, 0, "codes", s.m * s.code_row)),
        zeros(component<uint8_t>(components, 2, "zeros", s.m * s.zero_row)) {
    if (s.scale_bits == 32)
      wide = component<float>(components, 1, "scales", s.m * s.groups);
    else
      scales = component<f16>(components, 1, "scales", s.m * s.groups);
    if (!s.indexed) return;
    const tn_tensor* t = components[3];
    if (!t || !same(t->dtype, kI32) || count(*t) != s.n || !is_contiguous(*t))
      fail(TN_E_ARGUMENT, "component g_idx must be one int32 per input");
    g_idx = data<int32_t>(*t);
  }
  float scale(int64_t i) const { return wide ? wide[i] : to_float(scales[i]); }
  int64_t group_of(const GroupedSizes& s, int64_t j) const { return g_idx ? g_idx[j] : j / s.group; }
  // Files may hold anything.
  void check_index(const tn_target& target, const GroupedSizes& s) const {
    if (!g_idx) return;
    for (int64_t j = 0; j < s.n; ++j)
      if (g_idx[j] < 0 || g_idx[j] >= s.groups)
        fail(TN_E_FORMAT, name_of(target) + ": input " + std::to_string(j) + " names group " + std::to_string(g_idx[j]) + " of " +
                              std::to_string(s.groups) + "; the file is damaged");
  }
};

namespace grouped {

inline constexpr int64_t kChunk = 512;  // codes unpacked at a time: a multiple of 8
inline constexpr int64_t kMaxRows = 8;  // of a fused product

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

}  // namespace grouped

// dst = elements [begin, end) of the flattened weight; what quantizer_api.decode does.
inline void decode_grouped(const tn_exec* exec, const tn_target& target, const GroupedSizes& s, tn_tensor* const* components, int64_t begin,
                           int64_t end, tn_tensor& dst) {
  const GroupedParts parts(s, components);
  check_range(target, s.m * s.n, begin, end, dst);
  if (begin == end) return;
  parts.check_index(target, s);
  const int64_t first = begin / s.n, last = ceil_div(end, s.n);
  with_float_type(dst.dtype, "a decoded tensor", [&](auto type) {
    auto* to = data<decltype(type)>(dst);
    for_each_block(exec, last - first, [=, &s, &parts](const Block& block) {
      const int64_t row = first + block.index, a = std::max(begin, row * s.n), b = std::min(end, (row + 1) * s.n);
      thread_local grouped::RowGrid grid;
      grid.read(s, parts, row);
      grouped::decode_row(s, parts, grid, row, a - row * s.n, b - row * s.n, to + (a - begin));
    }, s.n);
  });
}

// y = alpha · x Wᵀ + beta · y for few rows of x; what quantizer_api.linear does. Workspace: x in f32.
inline void multiply_grouped(const tn_exec* exec, const tn_target& target, const GroupedSizes& s, tn_tensor* const* components, const tn_tensor& x,
                             double alpha, double beta, tn_tensor& y) {
  using namespace grouped;
  const GroupedParts parts(s, components);
  const Product p(target, x, y, kMaxRows);
  parts.check_index(target, s);
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

// Fills `out` for one operation; false: ENCODE, or no fused product.
inline bool estimate_grouped(const tn_target& target, const GroupedSizes& s, uint32_t op, int64_t rows, tn_estimate& out) {
  const int64_t state = s.bytes();
  if (op == TN_QUANTIZER_DECODE) {
    const double each = static_cast<double>(state) / static_cast<double>(std::max<int64_t>(s.m * s.n, 1)) + target.dtype.bits / 8.0;
    set_estimate(out, 2.0 * rows, each * rows, state);
    return true;
  }
  if (op != TN_QUANTIZER_LINEAR || target.ndim != 2 || rows > grouped::kMaxRows) return false;
  set_estimate(out, 2.0 * rows * s.m * s.n, static_cast<double>(state) + 4.0 * rows * (s.m + s.n), state, 4 * rows * s.n);
  return true;
}

}  // namespace tenon::sdk
