// Plain E4M3 with a scale for each group along the channels, or for the whole tensor: saved activations (scales in bf16), weights and inputs of products
// (a bf16 number in f32, as products take it).
#pragma once

#include "sdk/codec.h"
#include "sdk/fp8.h"

namespace tenon::coat {

inline constexpr int64_t kBlockElements = 16384;

// x [rows, channels]; groups never cross rows. width 0: one group.
struct Groups {
  int64_t rows, channels, width, of_row;
  Groups(int64_t rows, int64_t channels, int64_t width)
      : rows(rows), channels(channels), width(width), of_row(width > 0 ? sdk::ceil_div(channels, width) : 0) {}
  int64_t count() const { return rows * channels; }
  int64_t scales() const { return width > 0 ? rows * of_row : 1; }
};

TN_FN sdk::bf16 scale_of(float absmax) { return sdk::from_float<sdk::bf16>((absmax + 1e-10f) / sdk::kE4M3Max); }

// Groups a block takes.
inline int64_t groups_of_block(const Groups& g) { return std::max<int64_t>(1, kBlockElements / g.width); }

// A group, by a block of threads or, as OneThread, by one.
template <class T>
struct EncodeGroups {
  const T* x;
  Groups g;
  int64_t per_block;
  uint8_t* codes;
  sdk::bf16* scales;
  sdk::FirstBad::Found bad;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t total = g.rows * g.of_row, first = block.index * per_block, last = total - first < per_block ? total : first + per_block;
    for (int64_t k = first; k < last; ++k) group(block, k);
  }
  template <class Threads>
  TN_FN void group(const Threads& threads, int64_t k) const {
    const int64_t row = k / g.of_row, c = (k - row * g.of_row) * g.width, n = g.channels - c < g.width ? g.channels - c : g.width;
    const T* const from = x + row * g.channels + c;
    uint8_t* const to = codes + row * g.channels + c;
    const float most = threads.max(n, 0.0f, [=](int64_t i) {
      const float v = __builtin_fabsf(sdk::to_float(from[i]));
      return sdk::is_finite(v) ? v : __builtin_inff();
    });
    const sdk::bf16 scale = scale_of(most);
    const float inverse = 1.0f / sdk::to_float(scale);
    sdk::bf16* const out = scales + k;
    const sdk::FirstBad::Found not_finite = bad;
    threads.each(1, [=](int64_t) {
      *out = scale;
      if (!sdk::is_finite(most)) not_finite(k);
    });
    threads.each(n, [=](int64_t i) { to[i] = sdk::to_e4m3(sdk::to_float(from[i]) * inverse); });
  }
};

#if !TN_GPU
// Groups of 16 that fill the rows: a group is one vector, and the scales of many are computed together.
template <class T>
void encode_sixteens(const tn_exec* exec, int64_t groups, const T* x, uint8_t* codes, sdk::bf16* scales, sdk::FirstBad::Found bad) {
  constexpr int64_t kWidth = 16, kTogether = 64, kRuns = kBlockElements / (kWidth * kTogether);
  sdk::for_each_block(exec, sdk::ceil_div(groups, kTogether * kRuns), [=](const sdk::Block& block) {
    for (int64_t run = block.index * kRuns; run < (block.index + 1) * kRuns && run * kTogether < groups; ++run) {
      const int64_t first = run * kTogether, n = std::min(kTogether, groups - first);
      alignas(64) float values[kWidth * kTogether], most[kTogether], inverse[kTogether];
      sdk::convert(x + first * kWidth, values, n * kWidth);
      for (int64_t g = 0; g < n; ++g) {
        uint32_t m = 0;  // NaN and Inf order above every finite number
#pragma omp simd reduction(max : m)
        for (int64_t i = 0; i < kWidth; ++i) {
          const uint32_t u = std::bit_cast<uint32_t>(values[g * kWidth + i]) & 0x7fffffffu;
          m = u > m ? u : m;
        }
        most[g] = std::bit_cast<float>(m);
      }
      bool finite = true;
      for (int64_t g = 0; g < n; ++g) finite &= sdk::is_finite(most[g]);
      if (!finite) {
        for (int64_t g = 0; g < n; ++g)
          if (!sdk::is_finite(most[g])) bad(first + g);
        continue;
      }
      block.each(n, [&](int64_t g) {
        const sdk::bf16 scale = scale_of(most[g]);
        scales[first + g] = scale, inverse[g] = 1.0f / sdk::to_float(scale);
      });
      // Apart, because a loop that ends in bytes takes 64 elements at a time.
      for (int64_t g = 0; g < n; ++g) {
#pragma omp simd
        for (int64_t i = 0; i < kWidth; ++i) values[g * kWidth + i] *= inverse[g];
      }
      uint8_t* const to = codes + first * kWidth;
      block.each(n * kWidth, [&](int64_t i) { to[i] = sdk::to_e4m3(values[i]); });
    }
  });
}
#endif

#if TN_GPU
// A thread a group, which is 16 to 128 values: a block of threads would meet four times for each.
struct OneThread {
  template <class F>
  TN_FN void each(int64_t n, F f) const {
    for (int64_t i = 0; i < n; ++i) f(i);
  }
  template <class F>
  TN_FN float max(int64_t n, float start, F f) const {
    float m = start;
    for (int64_t i = 0; i < n; ++i) {
      const float x = f(i);
      m = x > m ? x : m;
    }
    return m;
  }
};
template <class T>
struct EncodeGroup {
  EncodeGroups<T> groups;
  TN_FN void operator()(int64_t k) const { groups.group(OneThread{}, k); }
};
// The part within [begin, end) of group first + k.
template <class T, class S>
struct DecodeGroup {
  const uint8_t* codes;
  const S* scales;
  Groups g;
  int64_t first, begin, end;
  T* dst;
  TN_FN void operator()(int64_t k) const {
    const int64_t group = first + k, row = group / g.of_row, c = (group - row * g.of_row) * g.width, low = row * g.channels + c;
    const int64_t high = low + (g.channels - c < g.width ? g.channels - c : g.width), from = low > begin ? low : begin, to = high < end ? high : end;
    const float scale = sdk::to_float(scales[group]);
    for (int64_t i = from; i < to; ++i) dst[i - begin] = sdk::from_float<T>(sdk::from_e4m3(codes[i]) * scale);
  }
};
#endif

template <class T>
void encode_groups(const tn_exec* exec, const Groups& g, const T* x, uint8_t* codes, sdk::bf16* scales, sdk::FirstBad::Found bad) {
#if TN_GPU
  sdk::for_each(exec, g.scales(), EncodeGroup<T>{{x, g, 1, codes, scales, bad}});
#else
  if (g.width == 16 && g.channels % 16 == 0) return encode_sixteens(exec, g.scales(), x, codes, scales, bad);
  const int64_t per_block = groups_of_block(g);
  sdk::for_each_block(exec, sdk::ceil_div(g.scales(), per_block), EncodeGroups<T>{x, g, per_block, codes, scales, bad}, per_block * g.width);
#endif
}

template <class T>
struct AbsMax {
  const T* x;
  int64_t n;
  float* partial;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t begin = block.index * kBlockElements, length = n - begin < kBlockElements ? n - begin : kBlockElements;
    const T* const from = x + begin;
    const float most = block.max(length, 0.0f, [=](int64_t i) {
      const float v = __builtin_fabsf(sdk::to_float(from[i]));
      return sdk::is_finite(v) ? v : __builtin_inff();
    });
    float* const out = partial + block.index;
    block.each(1, [=](int64_t) { *out = most; });
  }
};

template <class S>
struct OneScale {
  const float* partial;
  int64_t blocks;
  S* scale;
  sdk::FirstBad::Found bad;
  TN_FN void operator()(const sdk::Block& block) const {
    const float* const from = partial;
    const float most = block.max(blocks, 0.0f, [=](int64_t b) { return from[b]; });
    const bool finite = sdk::is_finite(most);
    S* const to = scale;
    const sdk::FirstBad::Found not_finite = bad;
    block.each(1, [=](int64_t) {
      *to = sdk::from_float<S>(finite ? sdk::to_float(scale_of(most)) : __builtin_nanf(""));
      if (!finite) not_finite(0);
    });
  }
};

template <class T, class S>
struct EncodeWhole {
  const T* x;
  const S* scale;
  uint8_t* codes;
  int64_t n;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t begin = block.index * kBlockElements, length = n - begin < kBlockElements ? n - begin : kBlockElements;
    const T* const from = x + begin;
    uint8_t* const to = codes + begin;
    const float divisor = sdk::to_float(*scale);
    block.each(length, [=](int64_t i) { to[i] = sdk::to_e4m3(sdk::to_float(from[i]) / divisor); });
  }
};

// partial: ceil(n / kBlockElements) floats.
template <class T, class S>
void encode_whole(const tn_exec* exec, int64_t n, const T* x, float* partial, uint8_t* codes, S* scale, sdk::FirstBad::Found bad) {
  const int64_t blocks = sdk::ceil_div(n, kBlockElements);
  sdk::for_each_block(exec, blocks, AbsMax<T>{x, n, partial}, kBlockElements);
  sdk::for_each_block(exec, 1, OneScale<S>{partial, blocks, scale, bad}, blocks);
  sdk::for_each_block(exec, blocks, EncodeWhole<T, S>{x, scale, codes, n}, kBlockElements);
}

template <class T, class S>
struct DecodeValues {
  const uint8_t* codes;
  const S* scales;
  Groups g;
  int64_t begin, end;
  T* dst;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t at = begin + block.index * kBlockElements, stop = end - at < kBlockElements ? end : at + kBlockElements, start = begin;
    for (int64_t i = at; i < stop;) {
      int64_t n = stop - i, k = 0;
      if (g.width > 0) {
        const int64_t row = i / g.channels, c = i - row * g.channels, of = c / g.width;
        const int64_t next = (of + 1) * g.width < g.channels ? (of + 1) * g.width : g.channels;
        k = row * g.of_row + of;
        n = next - c < n ? next - c : n;
      }
      const float scale = sdk::to_float(scales[k]);
      const uint8_t* const q = codes + i;
      T* const to = dst + (i - start);
      block.each(n, [=](int64_t j) { to[j] = sdk::from_float<T>(sdk::from_e4m3(q[j]) * scale); });
      i += n;
    }
  }
};

#if !TN_GPU
// Groups that fill the rows, so that they lie one behind the other. Three loops over a run: each takes as many elements at a time as its
// types allow, of which only the middle one, in f32, fits into a group of 16.
template <class T>
void decode_sixteens(const tn_exec* exec, int64_t width, const uint8_t* codes, const sdk::bf16* scales, int64_t begin, int64_t end, T* dst) {
  constexpr int64_t kLanes = 16, kRun = 1024;
  const int64_t first = begin / kRun, runs = begin < end ? sdk::ceil_div(end, kRun) - first : 0;
  const int shift = std::countr_zero(static_cast<uint64_t>(width));
  sdk::for_each_block(exec, runs, [=](const sdk::Block& block) {
    const int64_t start = (first + block.index) * kRun, from = std::max(begin, start), stop = std::min(end, start + kRun);
    alignas(64) float values[kRun];
    const int64_t whole = from / kLanes * kLanes, n = sdk::ceil_div(stop - whole, kLanes) * kLanes;
    const uint8_t* const q = codes + whole;
    block.each(n, [&](int64_t i) { values[i] = sdk::from_e4m3(q[i]); });
    for (int64_t i = 0; i < n; i += kLanes) {
      const float scale = sdk::to_float(scales[(whole + i) >> shift]);
#pragma omp simd
      for (int64_t j = 0; j < kLanes; ++j) values[i + j] *= scale;
    }
    sdk::convert(values + (from - whole), dst + (from - begin), stop - from);
  }, kRun);
}
#endif

template <class T, class S>
void decode_values(const tn_exec* exec, const Groups& g, const uint8_t* codes, const S* scales, int64_t begin, int64_t end, T* dst) {
#if TN_GPU
  if (g.width > 0 && begin < end) {
    const auto group_of = [&](int64_t i) { return i / g.channels * g.of_row + i % g.channels / g.width; };
    const int64_t first = group_of(begin);
    return sdk::for_each(exec, group_of(end - 1) - first + 1, DecodeGroup<T, S>{codes, scales, g, first, begin, end, dst});
  }
#else
  if constexpr (std::is_same_v<S, sdk::bf16>)
    if (g.width > 0 && g.channels % g.width == 0) return decode_sixteens(exec, g.width, codes, scales, begin, end, dst);
#endif
  sdk::for_each_block(exec, sdk::ceil_div(end - begin, kBlockElements), DecodeValues<T, S>{codes, scales, g, begin, end, dst}, kBlockElements);
}

template <class From, class To>
struct CopyValues {
  const From* from;
  To* to;
  TN_FN void operator()(int64_t i) const { to[i] = sdk::from_float<To>(sdk::to_float(from[i])); }
};

}  // namespace tenon::coat
