// The backward pass on matrix units, in two passes that each own what they write, so that results are the same bits every time: one over
// tiles of queries for dQ, one over tiles of keys for dK and dV. Both compute the weights again from the scores and L. The next tile is
// copied while one is worked on.
#pragma once

#include "sdk/attention/flash/gpu/tiles.h"

namespace tenon::sdk::flash::gpu {

// Rows of the tiles that pass by.
template <int D>
inline constexpr int kPassing = D == 64 ? 64 : kSmallTiles ? 16 : 32;

// dQ = Σ dS K · scale with dS = P ∘ (dO Vᵀ − delta).
template <class T, int D, class Tiles>
struct TiledQueryGradient {
  static constexpr int kWaves = 4, kThreads = kWaves * TN_MATRIX_LANES, kBlocks = 1, kRows = 16 * kBlocks * kWaves, kKeyTile = kPassing<D>;
  static constexpr int64_t kTiles = mma::SharedTile<T, D>::bytes(2 * kRows + 4 * kKeyTile);
  static constexpr int64_t kShared = kTiles > Stage<D>::bytes(kRows) ? kTiles : Stage<D>::bytes(kRows);
  static_assert(kShared <= kMostShared && (!Tiles::kListed || kRows == kTileRows));
  Call call;
  Tiles tiles;

  TN_FN void operator()(const sdk::Block& block) const {
#if TN_MATRIX_UNITS
    using mma::Sum;
    using Tile = mma::SharedTile<T, D>;
    const Call& a = call;
    const TilePlace at = tiles.queries(a, block.index, kRows);
    const QueryRows rows(a, at, at.begin);
    const int row = mma::thread() / TN_MATRIX_LANES * 16 * kBlocks;  // the wave's first
    const Tile q{block.shared<T>()}, g{q.data + kRows * D};
    T* const passing = g.data + kRows * D;
    const auto k = [=](int t) { return Tile{passing + t % 2 * 2 * kKeyTile * D}; };
    const auto v = [=](int t) { return Tile{passing + (t % 2 * 2 + 1) * kKeyTile * D}; };
    const Band band(a.mask, at.seg);
    const auto keys = tiles.keys_of(at, band, rows.query(0), rows.query_or_last(kRows - 1), kKeyTile);
    const int first = rows.query_or_last(row), last = rows.query_or_last(row + 16 * kBlocks - 1);  // the wave's queries
    const float to_log2 = a.scale * kLog2E;
    const char *const first_k = first_key(a.k, at), *const first_v = first_key(a.v, at);
    const auto fetch_tile = [&](int t) {
      fetch_keys<kThreads, kKeyTile>(k(t), a.k, first_k, keys[t]);
      fetch_keys<kThreads, kKeyTile>(v(t), a.v, first_v, keys[t]);
    };

    fetch_queries<kThreads, kRows>(q, a.q, rows);
    fetch_queries<kThreads, kRows>(g, a.d_o, rows);
    fetch_tile(0);
    mma::end_copies();
    Sum dq[kBlocks][D / 16] = {};
    float lse[kBlocks][Sum::kSlots], delta[kBlocks][Sum::kSlots];
#pragma unroll
    for (int m = 0; m < kBlocks; ++m)
#pragma unroll
      for (int slot = 0; slot < Sum::kSlots; ++slot) {
        const int r = row + 16 * m + Sum::row(slot);
        const bool there = r < rows.count;
        lse[m][slot] = there ? rows.at(a.lse, r) * kLog2E : -minus_infinity(), delta[m][slot] = there ? a.delta[rows.flat(a, r)] : 0.0f;
      }

    int t = 0;
    do {
      const Keys run = keys[t];
      mma::wait_copies<0>();
      mma::barrier();  // this tile is here, and the last one is done with
      if (t + 1 < keys.count) fetch_tile(t + 1);
      mma::end_copies();
      const sdk::Cover cover = band.cover(first, last, run);
      if (cover == sdk::Cover::kEmpty) continue;
      Sum s[kBlocks][kKeyTile / 16] = {}, dp[kBlocks][kKeyTile / 16] = {};
      mma::multiply_rows(s, q, row, k(t));
      mma::multiply_rows(dp, g, row, v(t));
      if (cover == sdk::Cover::kPartial || run.size() < kKeyTile) hide(s, band, rows, row, run);
#pragma unroll
      for (int m = 0; m < kBlocks; ++m)
#pragma unroll
        for (int slot = 0; slot < Sum::kSlots; ++slot)
#pragma unroll
          for (int n = 0; n < kKeyTile / 16; ++n)
#pragma unroll
            for (int x = 0; x < Sum::kPerSlot; ++x) {
              // A row that sees nothing has L = −inf.
              const float score = s[m][n].at(slot, x), p = score == minus_infinity() ? 0.0f : mma::exp2(std::fma(score, to_log2, -lse[m][slot]));
              s[m][n].at(slot, x) = p * (dp[m][n].at(slot, x) - delta[m][slot]);
            }
      mma::weigh_rows(dq, s, k(t));
    } while (++t < keys.count);
    mma::wait_copies<0>();
    mma::barrier();
    const Stage<D> stage{block.shared<float>()};
    stage.put(dq, row, a.scale);
    mma::barrier();
    const Rows out = a.dq;
    const TilePlace again = tiles.queries(a, mma::forgotten(block.index), kRows);
    const QueryRows to(a, again, again.begin);
    stage.template write<kThreads>(out, kRows, [=](int r) { return r < to.count ? to.at(out, r) : nullptr; });
    mma::barrier();
#endif
  }
};

// dV = Pᵀ dO and dK = dSᵀ Q · scale, with the scores transposed from the start: rows are keys, columns queries, and both sums stay in
// registers while the queries pass by, head by head of the group.
template <class T, int D, class Tiles>
struct TiledKeyGradient {
  static constexpr int kWaves = 4, kThreads = kWaves * TN_MATRIX_LANES, kBlocks = 1, kRows = 16 * kBlocks * kWaves, kQueryTile = kPassing<D>;
  static constexpr int64_t kTiles = mma::SharedTile<T, D>::bytes(2 * kRows + 4 * kQueryTile), kNumbers = 4 * kQueryTile * sizeof(float);
  static constexpr int64_t kShared = (kTiles > Stage<D>::bytes(kRows) ? kTiles : Stage<D>::bytes(kRows)) + kNumbers;
  static_assert(kShared <= kMostShared && (!Tiles::kListed || kRows == kPiece));
  Call call;
  Tiles tiles;

  TN_FN void operator()(const sdk::Block& block) const {
#if TN_MATRIX_UNITS
    using mma::Sum;
    using Tile = mma::SharedTile<T, D>;
    const Call& a = call;
    const TilePlace at = tiles.keys(a, block.index, kRows);
    const Band band(a.mask, at.seg);
    const Keys keys{at.begin, Band::lesser(at.begin + kRows, at.end)};
    const auto queries = tiles.queries_of(at, band, keys, static_cast<int>(at.seg.q_len), kQueryTile);
    const int group = group_of(a), steps = group * queries.count;
    const int row = mma::thread() / TN_MATRIX_LANES * 16 * kBlocks;  // the wave's first key
    const Tile k{block.shared<T>()}, v{k.data + kRows * D};
    T* const passing = v.data + kRows * D;
    const auto q = [=](int t) { return Tile{passing + t % 2 * 2 * kQueryTile * D}; };
    const auto g = [=](int t) { return Tile{passing + (t % 2 * 2 + 1) * kQueryTile * D}; };
    // L in powers of two and delta of each query of a tile; rows that are not there have no weight.
    float* const numbers = block.shared<float>() + (kShared - kNumbers) / static_cast<int64_t>(sizeof(float));
    int next_head = 0, next = 0;  // the tile that is fetched next: head by head of the group
    const auto fetch_tile = [&](int t) {
      const Keys run = queries[next];
      const int64_t token = at.seg.q_begin + run.begin, head = at.kv * group + next_head;
      const int n = run.size();
      fetch_tokens<kThreads, kQueryTile>(q(t), a.q, a.q.at(at.b, token, head), n);
      fetch_tokens<kThreads, kQueryTile>(g(t), a.d_o, a.d_o.at(at.b, token, head), n);
      mma::end_copies();
      if (mma::thread() < kQueryTile) {
        const int i = mma::thread();
        float* const to = numbers + t % 2 * 2 * kQueryTile + i;
        to[0] = i < n ? a.lse.at(at.b, head, token + i) * kLog2E : -minus_infinity();
        to[kQueryTile] = i < n ? a.delta[(at.b * a.heads + head) * a.t_q + token + i] : 0.0f;
      }
      if (++next == queries.count) next = 0, ++next_head;
    };
    const Keys own{at.begin + row, Band::lesser(at.begin + row + 16 * kBlocks, at.end)};  // the wave's keys
    const float to_log2 = a.scale * kLog2E;

    fetch_keys<kThreads, kRows>(k, a.k, first_key(a.k, at), keys);
    fetch_keys<kThreads, kRows>(v, a.v, first_key(a.v, at), keys);
    if (steps > 0) fetch_tile(0);
    mma::end_copies();
    Sum dk[kBlocks][D / 16] = {}, dv[kBlocks][D / 16] = {};
    int now = 0;  // the tile that is worked on
    for (int t = 0; t < steps; ++t) {
      mma::wait_copies<0>();
      mma::barrier();  // this tile is here, and the last one is done with
      if (t + 1 < steps) fetch_tile(t + 1);
      const Keys run = queries[now];
      const int first = run.begin;
      now = now + 1 < queries.count ? now + 1 : 0;
      const sdk::Cover cover = band.cover(first, run.end - 1, own);
      if (cover == sdk::Cover::kEmpty) continue;
      Sum s[kBlocks][kQueryTile / 16] = {}, ds[kBlocks][kQueryTile / 16] = {};
      mma::multiply_rows(s, k, row, q(t));
      if (cover == sdk::Cover::kPartial) hide_queries(s, band, first, at.begin + row);
      const float *const lse = numbers + t % 2 * 2 * kQueryTile, *const delta = lse + kQueryTile;
#pragma unroll
      for (int n = 0; n < kQueryTile / 16; ++n)
#pragma unroll
        for (int x = 0; x < Sum::kPerSlot; ++x) {
          const float l = lse[16 * n + Sum::column(x)];
#pragma unroll
          for (int m = 0; m < kBlocks; ++m)
#pragma unroll
            for (int slot = 0; slot < Sum::kSlots; ++slot) {
              float& score = s[m][n].at(slot, x);
              score = score == minus_infinity() ? 0.0f : mma::exp2(std::fma(score, to_log2, -l));
            }
        }
      mma::weigh_rows(dv, s, g(t));
      mma::multiply_rows(ds, v, row, g(t));
#pragma unroll
      for (int n = 0; n < kQueryTile / 16; ++n)
#pragma unroll
        for (int x = 0; x < Sum::kPerSlot; ++x) {
          const float d = delta[16 * n + Sum::column(x)];
#pragma unroll
          for (int m = 0; m < kBlocks; ++m)
#pragma unroll
            for (int slot = 0; slot < Sum::kSlots; ++slot) ds[m][n].at(slot, x) = s[m][n].at(slot, x) * (ds[m][n].at(slot, x) - d);
        }
      mma::weigh_rows(dk, ds, q(t));
    }
    const Stage<D> stage{block.shared<float>()};
    const TilePlace again = tiles.keys(a, mma::forgotten(block.index), kRows);
    leave(stage, again, row, dk, a.scale, a.dk);
    leave(stage, again, row, dv, 1.0f, a.dv);
#endif
  }

#if TN_MATRIX_UNITS
  // Rows are keys from `key` on, columns queries from `first` on.
  static TN_FN void hide_queries(mma::Sum (&s)[kBlocks][kQueryTile / 16], const Band& band, int first, int key) {
    using mma::Sum;
#pragma unroll
    for (int n = 0; n < kQueryTile / 16; ++n)
#pragma unroll
      for (int x = 0; x < Sum::kPerSlot; ++x) {
        const int query = first + 16 * n + Sum::column(x);
#pragma unroll
        for (int m = 0; m < kBlocks; ++m)
#pragma unroll
          for (int slot = 0; slot < Sum::kSlots; ++slot)
            if (!band.sees(query, key + 16 * m + Sum::row(slot))) s[m][n].at(slot, x) = minus_infinity();
      }
  }
  static TN_FN void leave(const Stage<D>& stage, const TilePlace& at, int row, const mma::Sum (&sums)[kBlocks][D / 16], float factor, const Rows& to) {
    mma::wait_copies<0>();
    mma::barrier();  // the memory is free
    stage.put(sums, row, factor);
    mma::barrier();
    const TilePlace place = at;
    const Rows out = to;
    stage.template write<kThreads>(out, kRows, [=](int r) {
      return place.begin + r < place.end ? out.at(place.b, place.seg.k_begin + place.begin + r, place.kv) : nullptr;
    });
    mma::barrier();
  }
#endif
};

}  // namespace tenon::sdk::flash::gpu
