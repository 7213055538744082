// The product for very few rows of activations, without the weight ever being formed.
//
// y[i] = Σ_s Σ_k u_s[i, k] · Σ_j sign_s[i, j] · z_s[j, k] with z_s[j, k] = v_s[k, j] · columns[j] · x[j]. The inner sum
// is over signs, so four inputs give one of 16 values: these are tabulated once for all rows, and a row looks them up,
// four weights an addition. Lanes are ranks.
#pragma once

#include "quantizers/bitstack/stack.h"

namespace tenon::bitstack {

inline constexpr int64_t kLookupRows = 4;  // of activations; with more of them forming tiles of the weight is cheaper
inline constexpr int64_t kChunk =
    64;  // inputs whose tables are held at a time: 16 tables of 16 sums of 16 lanes, 16 KiB
inline constexpr int64_t kBand = 96;  // rows of the weight that share tables

inline int64_t chunks(const Sizes& s) {
  return sdk::ceil_div(s.n, kChunk);
}
inline int64_t rank_groups(const Sizes& s) {
  return sdk::ceil_div(s.rank, kLanes);
}
// Floats of z for one row of activations.
inline int64_t lookup_floats(const Sizes& s) {
  return s.segments * rank_groups(s) * chunks(s) * kChunk * kLanes;
}

// z, [segments, rank groups, inputs, 16]; inputs and ranks that do not exist are zero. scaled: x times the column
// factors, zeros behind.
inline void spread_input(const tn_exec* exec, const Sizes& s, const Parts& p, const float* scaled, float* z) {
  const int64_t groups = rank_groups(s), across = chunks(s);
  sdk::for_each_block(
      exec, p.segments * groups * across,
      [=, &s, &p](const sdk::Block& block) {
        const int64_t segment = block.index / (groups * across), group = block.index / across % groups,
                      c0 = block.index % across * kChunk;
        const int64_t there = std::min(kChunk, s.n - c0), ranks = std::min(kLanes, s.rank - group * kLanes);
        alignas(64) float rows[kLanes][kChunk] = {};
        for (int64_t k = 0; k < ranks; ++k) {
          sdk::convert(p.v + (segment * s.rank + group * kLanes + k) * s.n + c0, rows[k], there);
          for (int64_t j = 0; j < there; ++j) rows[k][j] *= scaled[c0 + j];
        }
        float* to = z + block.index * kChunk * kLanes;
        for (int64_t j = 0; j < kChunk; ++j)
          for (int64_t k = 0; k < kLanes; ++k) to[j * kLanes + k] = rows[k][j];
      },
      kChunk * kLanes);
}

// The sums of four inputs for each of their 16 patterns of signs; the first input has the highest bit, a set bit is +.
inline void tabulate(const float* z, Floats* table) {
  Floats in[4], left[4], right[4];
  std::memcpy(in, z, sizeof in);
  left[0] = -in[0] - in[1], left[1] = in[1] - in[0], left[2] = in[0] - in[1], left[3] = in[0] + in[1];
  right[0] = -in[2] - in[3], right[1] = in[3] - in[2], right[2] = in[2] - in[3], right[3] = in[2] + in[3];
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t j = 0; j < 4; ++j) table[4 * i + j] = left[i] + right[j];
}

// y[m] = alpha · W x + beta · y, from z.
template <class Y>
void look_up(const tn_exec* exec, const Sizes& s, const Parts& p, const float* z, double alpha, double beta, Y* y) {
  const int64_t groups = rank_groups(s), across = chunks(s);
  sdk::for_each_block(
      exec, sdk::ceil_div(s.m, kBand),
      [=, &s, &p](const sdk::Block& band) {
        const int64_t r0 = band.index * kBand, rows = std::min(kBand, s.m - r0);
        Floats total[kBand] = {};
        for (int64_t part = 0; part < p.segments * groups; ++part) {
          const int64_t segment = part / groups, first = part % groups * kLanes,
                        ranks = std::min(kLanes, s.rank - first);
          Floats sum[kBand] = {};
          for (int64_t c = 0; c < across; ++c) {
            Floats table[kChunk / 4][16];
            for (int64_t q = 0; q < kChunk / 4; ++q)
              tabulate(z + ((part * across + c) * kChunk + 4 * q) * kLanes, table[q]);
            const uint8_t* signs = p.signs + (segment * s.m + r0) * s.sign_row + c * (kChunk / 8);
            const size_t bytes = static_cast<size_t>(std::min(kChunk / 8, s.sign_row - c * (kChunk / 8)));
            for (int64_t i = 0; i < rows; ++i) {
              uint64_t word = 0;
              std::memcpy(&word, signs + i * s.sign_row, bytes);
              Floats even = sum[i], odd{};
#pragma GCC unroll 8
              for (int64_t b = 0; b < kChunk / 8; ++b) {
                even += table[2 * b][word >> (8 * b + 4) & 15];
                odd += table[2 * b + 1][word >> (8 * b) & 15];
              }
              sum[i] = even + odd;
            }
          }
          const sdk::f16* u = p.u + (segment * s.m + r0) * s.rank + first;
          for (int64_t i = 0; i < rows; ++i) {
            alignas(64) float factor[kLanes] = {};
            sdk::convert(u + i * s.rank, factor, ranks);
            Floats f;
            std::memcpy(&f, factor, sizeof f);
            total[i] += f * sum[i];
          }
        }
        for (int64_t i = 0; i < rows; ++i) {
          float dot = 0;
          for (int64_t k = 0; k < kLanes; ++k) dot += total[i][k];
          Y& to = y[r0 + i];
          to = sdk::from_float<Y>(static_cast<float>(alpha * dot + (beta != 0 ? beta * sdk::to_float(to) : 0.0)));
        }
      },
      kBand * s.n * p.segments);
}

}  // namespace tenon::bitstack
