// What is done with weights [m, n] on grids, a scale and a zero point each for a group of a row.
#pragma once

#include "quantizers/efficientqat/codec.h"
#include "quantizers/efficientqat/grid.h"
#include "sdk/floats.h"
#if !TN_GPU
#include "sdk/integer/grouped_cpu.h"
#endif

namespace tenon::efficientqat {

// Group `index` of those from row `first` on: its place among all, and its first weight and how many there are.
struct Group {
  int64_t row, at, begin, n;
  TN_FN Group(const sdk::GroupedSizes& s, int64_t index, int64_t first = 0) : row(first + index / s.groups), at(first * s.groups + index) {
    const int64_t column = index % s.groups * s.group;
    begin = row * s.n + column, n = s.n - column < s.group ? s.n - column : s.group;
  }
};

inline constexpr float kBad = std::bit_cast<float>(0x7fc00000u);  // NaN

TN_FN bool has_bad(const sdk::Block& block, const float* w, int64_t n) {
  return block.max(n, 0.0f, [=](int64_t j) { return sdk::is_finite(w[j]) ? 0.0f : 1.0f; }) > 0;
}

// The grids that round the weights to nearest. Calls of the training form have no workspace, so that NaN or Inf is reported by the grid that it
// is on: the scale of such a group becomes NaN.
inline void find_grids(const tn_exec* exec, const sdk::GroupedSizes& s, float top, const Values& v) {
  sdk::for_each_block(
      exec, s.m * s.groups,
      [=] TN_KERNEL(const sdk::Block& block) {
        const Group g(s, block.index);
        const float* const w = v.weight + g.begin;
        const bool bad = has_bad(block, w, g.n);
        const Grid grid = Grid::of(block, w, g.n, top);
        float *const scale = v.scales + g.at, *const zero = v.zeros + g.at;
        block.each(1, [=](int64_t) { *scale = bad ? kBad : grid.scale, *zero = grid.zero; });
      },
      s.group);
}

// The same for grids that are there already.
inline void spoil_bad_groups(const tn_exec* exec, const sdk::GroupedSizes& s, const Values& v) {
  sdk::for_each_block(
      exec, s.m * s.groups,
      [=] TN_KERNEL(const sdk::Block& block) {
        const Group g(s, block.index);
        const bool bad = has_bad(block, v.weight + g.begin, g.n);
        float* const scale = v.scales + g.at;
        block.each(bad ? 1 : 0, [=](int64_t) { *scale = kBad; });
      },
      s.group);
}

// Rows [begin, end) of the weight that is trained through.
template <class T>
void materialize_rows(const tn_exec* exec, const sdk::GroupedSizes& s, float top, const Values& v, int64_t begin, int64_t end, T* to) {
  sdk::for_each_block(
      exec, (end - begin) * s.groups,
      [=] TN_KERNEL(const sdk::Block& block) {
        const Group g(s, block.index, begin);
        const Grid grid(v.scales[g.at], v.zeros[g.at], top);
        const float* const from = v.weight + g.begin;
        T* const out = to + (g.begin - begin * s.n);
        block.each(g.n, [=](int64_t j) { out[j] = sdk::from_float<T>(grid.value(from[j])); });
      },
      s.group);
}

// d += what dw, rows [begin, end), comes to.
inline void add_gradients(const tn_exec* exec, const sdk::GroupedSizes& s, float top, const Values& v, const float* dw, int64_t begin, int64_t end,
                          const Values& d) {
  sdk::for_each_block(
      exec, (end - begin) * s.groups,
      [=] TN_KERNEL(const sdk::Block& block) {
        const Group g(s, block.index, begin);
        const Grid grid(v.scales[g.at], v.zeros[g.at], top);
        const float *const w = v.weight + g.begin, *const from = dw + (g.begin - begin * s.n);
        float* const to = d.weight ? d.weight + g.begin : nullptr;
        const float of_scale = block.sum(g.n, [=](int64_t j) {
          float ds = 0, dz = 0;
          const float of_weight = grid.gradient(w[j], from[j], ds, dz);
          if (to) to[j] += of_weight;
          return ds;
        });
        const float of_zero = block.sum(g.n, [=](int64_t j) {
          float ds = 0, dz = 0;
          grid.gradient(w[j], from[j], ds, dz);
          return dz;
        });
        const Values out = d;
        block.each(1, [=](int64_t) {
          if (out.scales) out.scales[g.at] += of_scale;
          if (out.zeros) out.zeros[g.at] += of_zero;
        });
      },
      s.group);
}

inline void clamp_grids(const tn_exec* exec, const sdk::GroupedSizes& s, float top, const Values& v) {
  sdk::for_each(exec, s.m * s.groups, [=] TN_KERNEL(int64_t i) {
    v.scales[i] = within(v.scales[i], kLeastScale, kLargestScale);
    v.zeros[i] = within(v.zeros[i], 0, top);
  });
}

// The components that the values come to.
inline void store(const tn_exec* exec, const sdk::GroupedSizes& s, float top, const Values& v, const Parts& parts) {
  sdk::for_each_block(
      exec, s.m,
      [=] TN_KERNEL(const sdk::Block& block) {
        const int64_t row = block.index, group = s.group, first = row * s.groups;
        const float *const w = v.weight + row * s.n, *const scales = v.scales + first, *const zeros = v.zeros + first;
        const Parts to = parts;
        sdk::pack_row(block, s.n, s.bits, to.codes + row * s.code_row,
                      [=](int64_t j) { return static_cast<uint8_t>(Grid(scales[j / group], zeros[j / group], top).code(w[j])); });
        sdk::pack_row(block, s.groups, s.bits, to.zeros + row * s.zero_row,
                      [=](int64_t g) { return static_cast<uint8_t>(Grid(scales[g], zeros[g], top).zero); });
        block.each(s.groups, [=](int64_t g) { to.put_scale(first + g, sdk::from_float<sdk::f16>(Grid(scales[g], zeros[g], top).scale)); });
      },
      s.n);
}

#if TN_GPU
// ds += Σ over the group of dW · (q − z).
inline void add_scale_gradients(const tn_exec* exec, const sdk::GroupedSizes& s, const Parts& parts, const float* dw, int64_t begin, int64_t end, float* ds) {
  sdk::for_each_block(
      exec, (end - begin) * s.groups,
      [=] TN_KERNEL(const sdk::Block& block) {
        const Group g(s, block.index, begin);
        const float* const from = dw + (g.begin - begin * s.n);
        const uint8_t* const codes = parts.codes + g.row * s.code_row;
        const float zero = parts.zero(s, g.row, g.at - g.row * s.groups);
        const int64_t column = g.begin - g.row * s.n;
        const int bits = s.bits;
        const float sum = block.sum(g.n, [=](int64_t j) { return from[j] * (static_cast<float>(sdk::code_at(codes, column + j, bits)) - zero); });
        float* const to = ds + g.at;
        block.each(1, [=](int64_t) { *to += sum; });
      },
      s.group);
}
#else
// The same by rows that are unpacked in chunks.
inline void add_scale_gradients(const tn_exec* exec, const sdk::GroupedSizes& s, const Parts& parts, const float* dw, int64_t begin, int64_t end, float* ds) {
  sdk::for_each_block(exec, end - begin, [=, &s, &parts](const sdk::Block& block) {
    const int64_t row = begin + block.index;
    thread_local sdk::grouped::RowGrid grid;
    grid.read(s, parts, row);
    std::fill(grid.scale.begin(), grid.scale.end(), 1.0f);  // then a decoded value is q − z
    for (int64_t g = 0; g < s.groups; ++g) {
      float sum = 0;
      for (int64_t at = g * s.group; at < std::min(s.n, (g + 1) * s.group);) {
        const int64_t stop = std::min({s.n, (g + 1) * s.group, (at & ~int64_t{7}) + sdk::grouped::kChunk});
        float steps[sdk::grouped::kChunk];
        sdk::grouped::decode_chunk(s, parts, grid, row, at, stop, steps);
        const float* from = dw + block.index * s.n + at;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < stop - at; ++j) sum += from[j] * steps[j];
        at = stop;
      }
      ds[row * s.groups + g] += sum;
    }
  }, s.n);
}
#endif

// Refuses the tensor by name where find_grids left a NaN, or where a scale of a training form is no finite number.
inline void require_finite_scales(const tn_exec* exec, const tn_target& target, const sdk::GroupedSizes& s, float* scales) {
  sdk::OnHost<float> seen(exec, scales, s.m * s.groups);
  for (int64_t i = 0; i < s.m * s.groups; ++i) {
    if (sdk::is_finite(seen[i])) continue;
    const Group g(s, i);
    sdk::fail(TN_E_NUMERIC, sdk::name_of(target) + ": NaN or Inf among elements " + std::to_string(g.begin) + " to " + std::to_string(g.begin + g.n - 1) +
                                "; only finite weights can be quantized");
  }
}

}  // namespace tenon::efficientqat
