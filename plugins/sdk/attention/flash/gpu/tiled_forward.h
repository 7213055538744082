// Attention on matrix units: tiles of queries stay in shared memory, tiles of keys and values pass by, and the online softmax, in powers of
// two, happens in the registers of the first product's sums (Dao 2023, FlashAttention-2). Values are copied while scores are computed, the
// next keys while values are weighed.
#pragma once

#include "sdk/attention/flash/gpu/tiles.h"

namespace tenon::sdk::flash::gpu {

// kBlocks: rows of a wave, in sixteens. Tiles: Tiling, or ListedTiles, whose tiles have kTileRows rows.
template <class T, int D, class Tiles>
struct TiledForward {
  static constexpr int kWaves = 4, kThreads = kWaves * TN_MATRIX_LANES, kBlocks = Tiles::kListed || (kSmallTiles && D == 128) ? 1 : 2,
                       kRows = 16 * kBlocks * kWaves, kKeyTile = 64;
  static constexpr int64_t kTiles = mma::SharedTile<T, D>::bytes(kRows + 2 * kKeyTile);
  static constexpr int64_t kShared = kTiles > Stage<D>::bytes(kRows) ? kTiles : Stage<D>::bytes(kRows);
  static_assert(kShared <= kMostShared && (!Tiles::kListed || kRows == kTileRows));
  Call call;
  Tiles tiles;

  TN_FN void operator()(const sdk::Block& block) const {
#if TN_MATRIX_UNITS
    using mma::Sum;
    const Call& a = call;
    const TilePlace at = tiles.queries(a, block.index, kRows);
    const QueryRows rows(a, at, at.begin);
    const int row = mma::thread() / TN_MATRIX_LANES * 16 * kBlocks;  // the wave's first
    const mma::SharedTile<T, D> q{block.shared<T>()}, k{q.data + kRows * D}, v{k.data + kKeyTile * D};
    const Band band(a.mask, at.seg);
    const auto keys = tiles.keys_of(at, band, rows.query(0), rows.query_or_last(kRows - 1), kKeyTile);
    const int first = rows.query_or_last(row), last = rows.query_or_last(row + 16 * kBlocks - 1);  // the wave's queries
    const float to_log2 = a.scale * kLog2E;
    const char *const first_k = first_key(a.k, at), *const first_v = first_key(a.v, at);

    fetch_queries<kThreads, kRows>(q, a.q, rows);
    fetch_keys<kThreads, kKeyTile>(k, a.k, first_k, keys[0]);
    mma::end_copies();
    Sum o[kBlocks][D / 16] = {};
    float top[kBlocks][Sum::kSlots], sum[kBlocks][Sum::kSlots];
#pragma unroll
    for (int m = 0; m < kBlocks; ++m)
#pragma unroll
      for (int slot = 0; slot < Sum::kSlots; ++slot) top[m][slot] = minus_infinity(), sum[m][slot] = 0;

    int t = 0;
    do {
      const Keys run = keys[t];
      mma::wait_copies<0>();
      mma::barrier();  // these keys are here, and the last values are done with
      fetch_keys<kThreads, kKeyTile>(v, a.v, first_v, run);
      mma::end_copies();
      const sdk::Cover cover = band.cover(first, last, run);
      Sum s[kBlocks][kKeyTile / 16] = {};
      if (cover != sdk::Cover::kEmpty) mma::multiply_rows(s, q, row, k);
      mma::wait_copies<0>();
      mma::barrier();  // these values are here, and the keys are done with
      if (t + 1 < keys.count) fetch_keys<kThreads, kKeyTile>(k, a.k, first_k, keys[t + 1]);
      mma::end_copies();
      if (cover == sdk::Cover::kEmpty) continue;
      if (cover == sdk::Cover::kPartial || run.size() < kKeyTile) hide(s, band, rows, row, run);
      soften(s, o, top, sum, to_log2);
      mma::weigh_rows(o, s, v);
    } while (++t < keys.count);
    mma::wait_copies<0>();
    mma::barrier();
    const TilePlace again = tiles.queries(a, mma::forgotten(block.index), kRows);
    finish(block, QueryRows(a, again, again.begin), row, o, top, sum);
#endif
  }

#if TN_MATRIX_UNITS
  // Scores become weights against the rows' new maxima; what was summed so far shrinks with them.
  static TN_FN void soften(mma::Sum (&s)[kBlocks][kKeyTile / 16], mma::Sum (&o)[kBlocks][D / 16], float (&top)[kBlocks][mma::Sum::kSlots],
                           float (&sum)[kBlocks][mma::Sum::kSlots], float to_log2) {
    using mma::Sum;
#pragma unroll
    for (int m = 0; m < kBlocks; ++m)
#pragma unroll
      for (int slot = 0; slot < Sum::kSlots; ++slot) {
        float high = top[m][slot];
#pragma unroll
        for (int n = 0; n < kKeyTile / 16; ++n)
#pragma unroll
          for (int x = 0; x < Sum::kPerSlot; ++x) high = s[m][n].at(slot, x) > high ? s[m][n].at(slot, x) : high;
        high = mma::row_max(high);
        // Not top · to_log2 − base: fused, that is a rounding error where the maximum stays, the same again with every tile.
        const float base = high == minus_infinity() ? 0.0f : high * to_log2,
                    shrink = top[m][slot] == high ? 1.0f : mma::exp2((top[m][slot] - high) * to_log2);
        float total = sum[m][slot] * shrink;
#pragma unroll
        for (int n = 0; n < kKeyTile / 16; ++n)
#pragma unroll
          for (int x = 0; x < Sum::kPerSlot; ++x) total += s[m][n].at(slot, x) = mma::exp2(std::fma(s[m][n].at(slot, x), to_log2, -base));
        top[m][slot] = high, sum[m][slot] = total;
#pragma unroll
        for (int f = 0; f < D / 16; ++f)
#pragma unroll
          for (int x = 0; x < Sum::kPerSlot; ++x) o[m][f].at(slot, x) *= shrink;
      }
  }
  // A sink logit joins at the end: it has weight and no value.
  TN_FN void finish(const sdk::Block& block, const QueryRows& rows, int row, mma::Sum (&o)[kBlocks][D / 16],
                    const float (&top)[kBlocks][mma::Sum::kSlots], const float (&sum)[kBlocks][mma::Sum::kSlots]) const {
    using mma::Sum;
    const Call& a = call;
#pragma unroll
    for (int m = 0; m < kBlocks; ++m)
#pragma unroll
      for (int slot = 0; slot < Sum::kSlots; ++slot) {
        const int r = row + 16 * m + Sum::row(slot);
        const bool there = r < rows.count;
        const float total = mma::row_sum(sum[m][slot]), own = top[m][slot] * a.scale;
        const float logit = a.sink.data && there ? a.sink.at(0, rows.head + rows.in_group(r), 0) : minus_infinity();
        const float high = logit > own ? logit : own;
        const bool empty = high == minus_infinity();
        const float share = empty || own == minus_infinity() ? 0.0f : sdk::vexp(own - high);
        const float whole = empty ? 1.0f : total * share + (a.sink.data ? sdk::vexp(logit - high) : 0.0f);
#pragma unroll
        for (int f = 0; f < D / 16; ++f)
#pragma unroll
          for (int x = 0; x < Sum::kPerSlot; ++x) o[m][f].at(slot, x) *= share / whole;
        if (a.lse.data && there && Sum::first_of_row()) rows.at(a.lse, r) = empty ? minus_infinity() : high + sdk::vlog(whole);
      }
    const Stage<D> stage{block.shared<float>()};
    stage.put(o, row, 1.0f);
    mma::barrier();
    const Rows out = a.o;
    const QueryRows q = rows;
    stage.template write<kThreads>(out, kRows, [=](int r) { return r < q.count ? q.at(out, r) : nullptr; });
    mma::barrier();
  }
#endif
};

}  // namespace tenon::sdk::flash::gpu
