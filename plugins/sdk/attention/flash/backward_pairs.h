// The steps of the backward pass with products of bf16: P and dS are rounded for them, sums and statistics stay f32.
// All of it lies in the scratch of f32: pairs take half of what they replace, and P and dS take the places of the
// scores that they come from.
#pragma once

#include "sdk/attention/flash/backward.h"
#include "sdk/attention/flash/forward_pairs.h"

#if defined(__AVX512BW__)

namespace tenon::sdk::flash {

// Columns of the chunk of two rows of a tile. Scores and dP come in f32; P is left as pairs of both rows in the first
// score row, dS so in the second and in bf16 from the start of each row of d_score on.
struct RowPair {
  float *first, *second;      // rows of kChunkKeys scores
  float *d_first, *d_second;  // of dP

  void weights(int64_t at, int64_t n, float factor, const float* lse, const float* dot) const {
    const Vec unit = broadcast(factor), base0 = broadcast(lse[0]), base1 = broadcast(lse[1]), mean0 = broadcast(dot[0]),
              mean1 = broadcast(dot[1]);
    for (int64_t c = at; c < at + n; c += kLanes) {
      const Vec weight0 = exp2_of(load(first + c) * unit - base0),
                weight1 = exp2_of(load(second + c) * unit - base1);
      const __m512i d_scores =
          round_both(weight0 * (load(d_first + c) - mean0), weight1 * (load(d_second + c) - mean1));
      _mm512_storeu_si512(first + c, interleave_halves(round_both(weight0, weight1)));
      _mm512_storeu_si512(second + c, interleave_halves(d_scores));
      store_half(d_first, c, _mm512_castsi512_si256(d_scores));
      store_half(d_second, c, _mm512_extracti64x4_epi64(d_scores, 1));
    }
  }
  void clear(int64_t begin, int64_t end) const {
    for (int64_t c = begin; c < end; c += kLanes) {
      _mm512_storeu_si512(first + c, _mm512_setzero_si512());
      _mm512_storeu_si512(second + c, _mm512_setzero_si512());
      store_half(d_first, c, _mm256_setzero_si256());
      store_half(d_second, c, _mm256_setzero_si256());
    }
  }

 private:
  static void store_half(float* row, int64_t column, __m256i x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(reinterpret_cast<char*>(row) + 2 * column), x);
  }
};

// weights_of_rows() in pairs; `row` is even.
inline void weights_of_row_pairs(const BackwardCall& call, const RowTile& part, int64_t row, sdk::Run chunk,
                                 sdk::Run run, const float* lse, const float* dot, const Pair* query, const Pair* d_out,
                                 const BackwardScratch& s) {
  const Problem& p = call.problem;
  const ChunkColumns columns(p, part, chunk, run);
  const int64_t at = columns.at, n = columns.n;
  const sdk::Run keys = columns.keys;
  const bool whole = keys.size() == n && p.full(part, keys);
  float *scores = s.weight + row * kChunkKeys, *d_scores = s.d_score + row * kChunkKeys;
  multiply_pair_columns(part.rows, n, p.d / 2, query + row * p.d / 2, p.d / 2, pairs_of(s.k_panels), at, scores + at,
                        kChunkKeys);
  multiply_pair_columns(part.rows, n, p.e / 2, d_out + row * p.e / 2, p.e / 2, pairs_of(s.v_panels), at, d_scores + at,
                        kChunkKeys);
  KeysOfRows seen(p, part);
  for (int64_t r = 0; r < part.rows; r += 2) {
    const auto of_row = [](float* rows, int64_t n) { return rows + n * kChunkKeys; };
    const RowPair rows{of_row(scores, r), of_row(scores, r + 1), of_row(d_scores, r), of_row(d_scores, r + 1)};
    const bool both = r + 1 < part.rows;
    const float bases[2] = {lse[r], both ? lse[r + 1] : INFINITY}, means[2] = {dot[r], both ? dot[r + 1] : 0.0f};
    const auto hide = [&](float* score, float* d_score, int64_t from, int64_t to) {
      std::fill(score + from, score + to, -INFINITY), std::fill(d_score + from, d_score + to, 0.0f);
    };
    if (!both) hide(rows.second, rows.d_second, at, at + n);
    for (int64_t i = 0; !whole && i < (both ? 2 : 1); ++i)
      each_hidden(seen.row(r + i), chunk.begin + at, n, keys, [&](int64_t from, int64_t to) {
        hide(i ? rows.second : rows.first, i ? rows.d_second : rows.d_first, at + from, at + to);
      });
    s.ahead.step(), s.ahead.step();
    rows.weights(at, n, p.query_factor(), bases, means);
    rows.clear(columns.base, at), rows.clear(at + n, columns.end);
  }
}

struct PairProducts {
  static void pack(const BackwardCall& call, int64_t b, int64_t kv_head, sdk::Run chunk, const BackwardScratch& s) {
    pack_pair_panels(call.ports.k, b, kv_head, chunk.begin, chunk.end, pairs_of(s.k_panels));
    pack_pair_panels(call.ports.v, b, kv_head, chunk.begin, chunk.end, pairs_of(s.v_panels));
    pack_pairs(call.ports.k, b, kv_head, chunk.begin, chunk.end, pairs_of(s.k_rows));
  }

  static void chunk_against_rows(const BackwardCall& call, const RowTile& tile, int64_t b, int64_t kv_head,
                                 sdk::Run chunk, const std::vector<sdk::Run>& runs, const float* lse, const float* dot,
                                 const BackwardScratch& s) {
    const Problem& p = call.problem;
    Pair *query = pairs_of(s.query), *query_pairs = query + kTileRows * p.d / 2, *d_out = pairs_of(s.d_out),
         *d_out_pairs = d_out + kTileRows * p.e / 2;
    read(p, call.ports.q, tile, b, kv_head, query, query_pairs);
    read(p, call.ports.d_o, tile, b, kv_head, d_out, d_out_pairs);
    const int64_t pairs = (tile.rows + 1) / 2;
    for (const sdk::Run& run : runs) {
      const int64_t step = p.full(tile, run) ? tile.rows : kPartRows, at = run.begin - chunk.begin;
      for (int64_t row = 0; row < tile.rows; row += step)
        weights_of_row_pairs(call, Problem::part(tile, row, step), row, chunk, run, lse + row, dot + row, query, d_out,
                             s);
      const Pair *weight = pairs_of(s.weight) + at, *d_score = weight + kChunkKeys;
      multiply_pairs<true>(run.size(), p.e, pairs, weight, 2 * kChunkKeys, d_out_pairs, s.dv + at * p.e, p.e, true);
      multiply_pairs<true>(run.size(), p.d, pairs, d_score, 2 * kChunkKeys, query_pairs, s.dk + at * p.d, p.d, true);
    }
  }

  static void add_query_gradient(const Problem& p, const RowTile& tile, sdk::Run chunk,
                                 const std::vector<sdk::Run>& runs, const BackwardScratch& s, float* dq, bool add) {
    for (const sdk::Run& run : runs) {
      multiply_range(tile.rows, p.d, run.begin - chunk.begin, run.end - chunk.begin, pairs_of(s.d_score), kChunkKeys,
                     pairs_of(s.k_rows), dq, p.d, add);
      add = true;
    }
  }

  static float key_factor(const Problem& p) { return static_cast<float>(p.scale); }

 private:
  // The tile's rows [rows, width / 2] and its pairs of rows [⌈rows / 2⌉, width].
  static void read(const Problem& p, const sdk::HeadRows& x, const RowTile& tile, int64_t b, int64_t kv_head,
                   Pair* rows, Pair* pairs) {
    const int64_t width = x.width / 2;
    copy_rows(p, x, tile, b, kv_head, width, rows);
    for (int64_t r = 0; r < tile.rows; r += 2)
      pair_rows(rows + r * width, r + 1 < tile.rows ? rows + (r + 1) * width : nullptr, x.width, pairs + r * width);
  }
};
static_assert(kTileRows % 2 == 0 && kPartRows % 2 == 0 && kChunkKeys % 2 == 0);

}  // namespace tenon::sdk::flash

#endif
