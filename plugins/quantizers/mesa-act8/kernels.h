// Ranges of groups, coding and decoding, for every backend.
#pragma once

#include "quantizers/mesa-act8/grid.h"
#include "sdk/noise8.h"

namespace tenon::mesa {

inline constexpr int64_t kBlockElements = 16384, kRun = 1024;

inline int64_t rows_of_block(const Shape& s) { return std::max<int64_t>(1, kBlockElements / std::max<int64_t>(s.channels, 1)); }
inline int64_t row_blocks(const Shape& s) { return sdk::ceil_div(s.rows, rows_of_block(s)); }

// The largest x and the largest −x of n columns of rows [first, last); infinite where one is not finite.
template <class T>
TN_FN sdk::Block::Pair range_of(const sdk::Block& block, const Shape& s, const T* x, int64_t first, int64_t last, int64_t n) {
#if TN_GPU
  sdk::Block::Pair most{-__builtin_inff(), -__builtin_inff()};
  for (int64_t r = first; r < last; ++r) {
    const T* const p = x + r * s.channels;
    most = block.max2(n, most, [=](int64_t i) {
      const float v = sdk::to_float(p[i]);
      return sdk::is_finite(v) ? sdk::Block::Pair{v, -v} : sdk::Block::Pair{__builtin_inff(), __builtin_inff()};
    });
  }
  return most;
#else
  // As integers that order as the numbers do, beyond which NaN and Inf lie; lanes meet once.
  (void)block;
#if defined(__AVX512BW__)
  constexpr int64_t kBytes = 64;
#else
  constexpr int64_t kBytes = 32;
#endif
  using Int = std::conditional_t<sizeof(T) == 2, int16_t, int32_t>;
  using Bits = std::make_unsigned_t<Int>;
  constexpr int64_t kLanes = kBytes / static_cast<int64_t>(sizeof(T));
  constexpr Int kMost = std::numeric_limits<Int>::max();
  constexpr int kSign = 8 * static_cast<int>(sizeof(T)) - 1;
  typedef Int Lanes __attribute__((vector_size(kBytes)));
  Lanes hi = Lanes{} - kMost - 1, lo = Lanes{} + kMost;
  const auto meet = [&](const T* p) __attribute__((always_inline)) {
    Lanes v;
    std::memcpy(&v, p, sizeof v);
    v ^= (v >> kSign) & kMost;
    hi = v > hi ? v : hi, lo = v < lo ? v : lo;
  };
  for (int64_t r = first; r < last; ++r) {
    const T* const from = x + r * s.channels;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) meet(from + i);
    if (i == n) continue;
    T rest[kLanes];
    for (int64_t k = 0; k < kLanes; ++k) rest[k] = from[i + k < n ? i + k : n - 1];
    meet(rest);
  }
  alignas(kBytes) Int his[kLanes], los[kLanes];
  std::memcpy(his, &hi, sizeof hi), std::memcpy(los, &lo, sizeof lo);
  Int most = his[0], least = los[0];
#pragma omp simd reduction(max : most) reduction(min : least)
  for (int64_t k = 0; k < kLanes; ++k) most = his[k] > most ? his[k] : most, least = los[k] < least ? los[k] : least;
  const auto number = [](Int v) { return sdk::to_float(std::bit_cast<T>(static_cast<Bits>(v ^ ((v >> kSign) & kMost)))); };
  return {number(most), -number(least)};
#endif
}

// The range of every group in a block of rows, to partial[block][group].
template <class T>
struct Range {
  const T* x;
  Shape s;
  int64_t per_block;
  float* partial;
  sdk::FirstBad::Found bad;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t first = block.index * per_block, last = s.rows - first < per_block ? s.rows : first + per_block, index = block.index;
    for (int64_t g = 0; g < s.groups; ++g) {
      const int64_t from = g * s.width, n = s.channels - from < s.width ? s.channels - from : s.width;
      const sdk::Block::Pair found = range_of(block, s, x + from, first, last, n);
      float* const out = partial + 2 * (index * s.groups + g);
      const sdk::FirstBad::Found not_finite = bad;
      block.each(1, [=](int64_t) {
        out[0] = found.first, out[1] = found.second;
        if (!sdk::is_finite(found.first) || !sdk::is_finite(found.second)) not_finite(0);
      });
    }
  }
};

template <class T>
void find_ranges(const tn_exec* exec, const Shape& s, const T* x, float* partial, sdk::FirstBad::Found bad) {
  sdk::for_each_block(exec, row_blocks(s), Range<T>{x, s, rows_of_block(s), partial, bad}, rows_of_block(s) * s.channels);
}

// The grid of each group from the ranges of all blocks. running (lo, width of each group) moves by 1 − decay where it is not null; zeros
// there mean that no range has been seen.
inline void make_grids(const tn_exec* exec, const Shape& s, const float* partial, float* running, float decay, float* grids) {
  const int64_t blocks = row_blocks(s), groups = s.groups;
  sdk::for_each(exec, groups, [=] TN_KERNEL(int64_t g) {
    float hi = -__builtin_inff(), below = hi;
    for (int64_t b = 0; b < blocks; ++b) {
      const float* const p = partial + 2 * (b * groups + g);
      hi = p[0] > hi ? p[0] : hi, below = p[1] > below ? p[1] : below;
    }
    float lo = -below, width = hi - lo;
    if (running) {
      float* const r = running + 2 * g;
      if (r[0] != 0 || r[1] != 0) lo = decay * r[0] + (1 - decay) * lo, width = decay * r[1] + (1 - decay) * width;
      r[0] = lo, r[1] = width;
    }
    const Grid grid = grid_of(lo, lo + width);
    float* const out = grids + kGridFloats * g;
    out[0] = grid.base, out[1] = grid.zero, out[2] = grid.step;
  });
}

// Runs of elements that share a row and a group, within [begin, end).
struct Runs {
  Shape s;
  const float* grids;
  template <class Use>
  TN_FN void operator()(int64_t begin, int64_t end, Use use) const {
    int64_t c = begin % s.channels, g = c / s.width;
    for (int64_t i = begin; i < end;) {
      const int64_t stop = (g + 1) * s.width < s.channels ? (g + 1) * s.width : s.channels, left = stop - c;
      const int64_t n = left < end - i ? left : end - i;
      const float* const p = grids + kGridFloats * g;
      use(i, n, Grid{p[0], p[1], p[2]});
      i += n, c = stop < s.channels ? stop : 0, g = stop < s.channels ? g + 1 : 0;
    }
  }
};

template <class T>
struct Encode {
  const T* x;
  Runs runs;
  int64_t count;
  bool stochastic;
  tn_rng key;
  uint8_t* codes;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t begin = block.index * kBlockElements, end = count - begin < kBlockElements ? count : begin + kBlockElements;
    uint8_t* const noise = block.shared<uint8_t>();
    const T* const from = x;
    uint8_t* const to = codes;
    for (int64_t at = begin; at < end; at += kRun) {
      const int64_t n = end - at < kRun ? end - at : kRun;
      if (stochastic) sdk::noise8_run(block, key, static_cast<uint64_t>(at), n, noise);
      const bool draws = stochastic;
      runs(at, at + n, [=, &block](int64_t i, int64_t length, const Grid& grid) {
        const Grid g = grid;
        const float inverse = inverse_of(g);
        const T* const p = from + i;
        uint8_t* const q = to + i;
        const uint8_t* const h = noise + (i - at);
        if (draws)
          block.each(length, [=](int64_t k) { q[k] = code_of(g, inverse, sdk::to_float(p[k]), (static_cast<float>(h[k]) + 0.5f) * 0x1p-8f); });
        else
          block.each(length, [=](int64_t k) { q[k] = code_of(g, inverse, sdk::to_float(p[k]), 0.5f); });
      });
    }
  }
};

template <class T>
void encode(const tn_exec* exec, const Shape& s, const T* x, const float* grids, bool stochastic, const tn_rng& key, uint8_t* codes) {
  sdk::for_each_block<kRun>(exec, sdk::ceil_div(s.count(), kBlockElements), Encode<T>{x, {s, grids}, s.count(), stochastic, key, codes}, kBlockElements);
}

template <class T>
struct Decode {
  const uint8_t* codes;
  Runs runs;
  int64_t begin, end;
  T* dst;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t at = begin + block.index * kBlockElements, first = begin;
    const uint8_t* const from = codes;
    T* const to = dst;
    runs(at, end - at < kBlockElements ? end : at + kBlockElements, [=, &block](int64_t i, int64_t length, const Grid& grid) {
      const Grid g = grid;
      const uint8_t* const q = from + i;
      T* const p = to + (i - first);
      block.each(length, [=](int64_t k) { p[k] = sdk::from_float<T>(value_of(g, q[k])); });
    });
  }
};

template <class T>
void decode(const tn_exec* exec, const Shape& s, const uint8_t* codes, const float* grids, int64_t begin, int64_t end, T* dst) {
  sdk::for_each_block(exec, sdk::ceil_div(end - begin, kBlockElements), Decode<T>{codes, {s, grids}, begin, end, dst}, kBlockElements);
}

}  // namespace tenon::mesa
