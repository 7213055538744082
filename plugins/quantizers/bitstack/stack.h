// From segments to numbers: tiles of rows and columns in which the segments add up in registers.
#pragma once

#include "quantizers/bitstack/codec.h"

namespace tenon::bitstack {

inline constexpr int64_t kLanes = 16, kVectors = 2, kWide = kLanes * kVectors, kTall = 8;

using Floats = float __attribute__((vector_size(64)));
using Words = uint32_t __attribute__((vector_size(64)));

// rows r0 … r0 + 7 by columns c0 … c0 + 31 of the sum without its column factors; what lies outside of the weight is undefined. Every element
// is the same chain of operations wherever its tile begins.
struct Tile {
  Floats sum[kTall][kVectors];
};

inline void load_columns(const Sizes& s, const Parts& p, int64_t segment, int64_t k, int64_t c0, float* out) {
  const sdk::f16* from = p.v + (segment * s.rank + k) * s.n + c0;
  const int64_t there = std::min(kWide, s.n - c0);
  if (there < kWide) std::fill(out + there, out + kWide, 0.0f);
  sdk::convert(from, out, there);
}

// Sixteen signs, the first in the highest bit of the first byte: all bits of a negative element's lane become its sign bit.
inline Words negative(uint32_t bits) {
  constexpr Words kPlace = {7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8};
  const Words all = bits - Words{};
  return ((all >> kPlace & 1u) ^ 1u) << 31;
}

inline void add_segments(const Sizes& s, const Parts& p, int64_t r0, int64_t c0, Tile& tile) {
  for (int64_t i = 0; i < kTall; ++i)
    for (int64_t j = 0; j < kVectors; ++j) tile.sum[i][j] = Floats{};
  const int64_t rows = std::min(kTall, s.m - r0);
  for (int64_t segment = 0; segment < p.segments; ++segment) {
    const sdk::f16* u = p.u + (segment * s.m + r0) * s.rank;
    float factor[kTall][64];
    for (int64_t i = 0; i < kTall; ++i) sdk::convert(u + (i < rows ? i : 0) * s.rank, factor[i], s.rank);
    Floats acc[kTall][kVectors] = {};
    for (int64_t k = 0; k < s.rank; ++k) {
      alignas(64) float columns[kWide];
      load_columns(s, p, segment, k, c0, columns);
      Floats v0, v1;
      std::memcpy(&v0, columns, sizeof v0), std::memcpy(&v1, columns + kLanes, sizeof v1);
#pragma GCC unroll 8
      for (int64_t i = 0; i < kTall; ++i) acc[i][0] += factor[i][k] * v0, acc[i][1] += factor[i][k] * v1;
    }
    const uint8_t* signs = p.signs + (segment * s.m + r0) * s.sign_row + c0 / 8;
    const int64_t bytes = std::min<int64_t>(kWide / 8, s.sign_row - c0 / 8);
#pragma GCC unroll 8
    for (int64_t i = 0; i < kTall; ++i) {
      uint32_t word = 0;
      std::memcpy(&word, signs + (i < rows ? i : 0) * s.sign_row, static_cast<size_t>(bytes));
      for (int64_t j = 0; j < kVectors; ++j) {
        tile.sum[i][j] += (Floats)((Words)acc[i][j] ^ negative(word >> (16 * j)));  // a cast between vectors keeps the bits
      }
    }
  }
}

// dst = elements [begin, end) of the weight.
template <class T>
void decode_range(const tn_exec* exec, const Sizes& s, const Parts& p, int64_t begin, int64_t end, T* dst) {
  const int64_t first = begin / s.n, last = sdk::ceil_div(end, s.n), bands = sdk::ceil_div(last - first, kTall);
  const bool one_row = last - first == 1;
  const int64_t left = one_row ? (begin - first * s.n) / kWide * kWide : 0, right = one_row ? end - first * s.n : s.n;
  sdk::for_each_block(exec, bands, [=, &s, &p](const sdk::Block& band) {
    const int64_t r0 = first + band.index * kTall;
    Tile tile;
    for (int64_t c0 = left; c0 < right; c0 += kWide) {
      add_segments(s, p, r0, c0, tile);
      for (int64_t i = 0; i < std::min(kTall, last - r0); ++i) {
        const int64_t row = (r0 + i) * s.n, a = std::max(begin, row + c0), b = std::min(end, row + std::min(s.n, c0 + kWide));
        const float* sum = reinterpret_cast<const float*>(tile.sum[i]);
        float value[kWide];
        for (int64_t e = a; e < b; ++e) value[e - a] = sum[e - row - c0] * p.columns[e - row];
        if (a < b) sdk::convert(value, dst + (a - begin), b - a);
      }
    }
  }, s.n * kTall * s.rank * p.segments);
}

inline constexpr int64_t kMaxRows = 8;  // of activations, in a fused product

// y[rows, m] = alpha · x Wᵀ + beta · y. scaled: x times the column factors, rows of `width`, a whole number of tiles with zeros behind.
template <class Y>
void multiply(const tn_exec* exec, const Sizes& s, const Parts& p, const float* scaled, int64_t width, int64_t rows, double alpha, double beta, Y* y) {
  sdk::for_each_block(exec, sdk::ceil_div(s.m, kTall), [=, &s, &p](const sdk::Block& band) {
    const int64_t r0 = band.index * kTall;
    Tile tile;
    Floats sums[kMaxRows][kTall] = {};
    for (int64_t c0 = 0; c0 < s.n; c0 += kWide) {
      add_segments(s, p, r0, c0, tile);
      for (int64_t t = 0; t < rows; ++t) {
        Floats x[kVectors];
        std::memcpy(x, scaled + t * width + c0, sizeof x);
        for (int64_t i = 0; i < kTall; ++i) sums[t][i] += tile.sum[i][0] * x[0] + tile.sum[i][1] * x[1];
      }
    }
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t i = 0; i < std::min(kTall, s.m - r0); ++i) {
        float sum = 0;
        for (int64_t j = 0; j < kLanes; ++j) sum += sums[t][i][j];
        Y& to = y[t * s.m + r0 + i];
        to = sdk::from_float<Y>(static_cast<float>(alpha * sum + (beta != 0 ? beta * sdk::to_float(to) : 0.0)));
      }
  }, s.n * kTall * s.rank * p.segments);
}

}  // namespace tenon::bitstack
