// The inner step of the backward pass: one chunk of keys against one row tile. Weights are recomputed from L
// (FlashAttention, Dao et al. 2022): P = exp(S − L), dV += Pᵀ dO, dP = dO Vᵀ, dS = P ∘ (dP − D), dQ += dS K, dK += dSᵀ
// Q.
#pragma once

#include "sdk/attention/flash/forward_tile.h"

namespace tenon::sdk::flash {

// What one thread needs: the row tile's Q and dO, two score tiles, and its chunk of keys with the gradients.
struct BackwardScratch {
  float *query, *d_out, *weight, *d_score;
  float *k_panels, *v_panels, *k_rows, *dk, *dv;
  mutable RowsAhead ahead;  // steps with each row of weights
  explicit BackwardScratch(sdk::Workspace& w, const Problem& p)
      : query(w.take(kTileRows * p.d_padded)),
        d_out(w.take(kTileRows * p.e_padded)),
        weight(w.take(kTileRows * kChunkKeys)),
        d_score(w.take(kTileRows * kChunkKeys)),
        k_panels(w.take(kChunkKeys * p.d)),
        v_panels(w.take(kChunkKeys * p.e)),
        k_rows(w.take(kChunkKeys * p.d_padded)),
        dk(w.take(kChunkKeys * p.d_padded)),
        dv(w.take(kChunkKeys * p.e_padded)) {}
};
static_assert(kChunkKeys % kPanel == 0 && kTileKeys % kPanel == 0);

// One row: scores become weights, dP becomes dS. lse in units of log 2, +inf where the row saw nothing; dot is D.
inline void weights_row(float* score, float* d_weight, int64_t n, float lse, float dot) {
  const Vec base = broadcast(lse), mean = broadcast(dot);
  for (int64_t c = 0; c < n; c += kLanes) {
    const Vec weight = exp2_of(load(score + c) - base);
    store(score + c, weight);
    store(d_weight + c, weight * (load(d_weight + c) - mean));
  }
}

inline void weights_row_capped(float* score, float* d_weight, int64_t n, float lse, float dot, float cap) {
  const Vec base = broadcast(lse), mean = broadcast(dot);
  for (int64_t c = 0; c < n; c += kLanes) {
    const Vec bent = sdk::vtanh(load(score + c)), weight = exp2_of(bent * cap - base);
    store(score + c, weight);
    store(d_weight + c, weight * (load(d_weight + c) - mean) * (1.0f - bent * bent));
  }
}

// The columns of a chunk that whole vectors around a run of keys cover, [base, end), and of these the n from `at` on that
// cover what the rows of a part may see of it, `keys`.
struct ChunkColumns {
  int64_t base, end, at, n;
  sdk::Run keys;
  ChunkColumns(const Problem& p, const RowTile& part, sdk::Run chunk, sdk::Run run)
      : base((run.begin - chunk.begin) / kLanes * kLanes),
        end(round_up(run.end - chunk.begin, kLanes)),
        keys(clip(p.keys(part), run)) {
    at = keys.size() ? (keys.begin - chunk.begin) / kLanes * kLanes : base;
    n = keys.size() ? round_up(keys.end - chunk.begin, kLanes) - at : 0;
  }
};

// Rows [row, row + part.rows) of the tile in scratch: P and dS of the keys `run`, 0 where a row sees nothing, in the
// columns of the chunk that whole vectors around the run cover.
inline void weights_of_rows(const BackwardCall& call, const RowTile& part, int64_t row, int64_t b, int64_t kv_head,
                            sdk::Run chunk, sdk::Run run, const float* lse, const float* dot,
                            const BackwardScratch& s) {
  const Problem& p = call.problem;
  const ChunkColumns columns(p, part, chunk, run);
  const int64_t base = columns.base, end = columns.end, at = columns.at, n = columns.n;
  const sdk::Run keys = columns.keys;
  const bool whole = keys.size() == end - base && p.full(part, keys);
  float *weights = s.weight + row * kChunkKeys, *d_scores = s.d_score + row * kChunkKeys;
  multiply_columns(part.rows, n, p.d, {s.query + row * p.d_padded, p.d_padded}, s.k_panels, at, weights + at,
                   kChunkKeys);
  multiply_columns(part.rows, n, p.e, {s.d_out + row * p.e_padded, p.e_padded}, s.v_panels, at, d_scores + at,
                   kChunkKeys);
  KeysOfRows seen(p, part);
  for (int64_t r = 0; r < part.rows; ++r) {
    float *weight = weights + r * kChunkKeys, *d_score = d_scores + r * kChunkKeys;
    float keep[kChunkKeys];
    const int64_t first = keys.begin - chunk.begin, size = keys.size();
    if (call.dropout.threshold && size) {
      const sdk::Segment& segment = p.segments[part.segment];
      sdk::keep_factors(call.dropout, row_key(p, call.rng, part, b, p.head(kv_head, part, r)),
                        segment.q_pos + p.query(part, r), segment.k_pos + keys.begin - segment.k_begin, size, keep);
      for (int64_t c = 0; c < size; ++c) d_score[first + c] *= keep[c];
    }
    if (p.softcap > 0) {
      weights_row_capped(weight + at, d_score + at, n, lse[r], dot[r], p.cap());
    } else {
      weights_row(weight + at, d_score + at, n, lse[r], dot[r]);
    }
    s.ahead.step();
    if (call.dropout.threshold)
      for (int64_t c = 0; c < size; ++c) weight[first + c] *= keep[c];
    if (!whole)
      each_hidden(seen.row(r), chunk.begin + base, end - base, keys, [&](int64_t from, int64_t to) {
        std::fill(weight + base + from, weight + base + to, 0.0f);
        std::fill(d_score + base + from, d_score + base + to, 0.0f);
      });
  }
}

// The runs of keys of the chunk that the tile may see. Without a pattern it is one, around what the mask shows; runs of
// a pattern lie at least a vector apart, and closer ones, which only a mask can cut, are joined.
inline void chunk_runs(const Problem& p, const RowTile& tile, int64_t kv_head, sdk::Run chunk,
                       std::vector<sdk::Run>& out) {
  out.clear();
  if (!p.pattern) {
    if (const sdk::Run hull = clip(p.keys(tile), chunk); hull.size()) out.push_back(hull);
    return;
  }
  p.key_runs(tile, kv_head, chunk, out);
  size_t kept = 0;
  for (size_t n = 0; n < out.size(); ++n) {
    if (kept > 0 && out[n].begin - out[kept - 1].end < kLanes)
      out[kept - 1].end = out[n].end;
    else
      out[kept++] = out[n];
  }
  out.resize(kept);
}

// The steps of the pass with products in f32.
struct FloatProducts {
  static void pack(const BackwardCall& call, int64_t b, int64_t kv_head, sdk::Run chunk, const BackwardScratch& s) {
    pack_transposed(call.ports.k, b, kv_head, chunk.begin, chunk.end, s.k_panels);
    pack_transposed(call.ports.v, b, kv_head, chunk.begin, chunk.end, s.v_panels);
    pack_rows(call.ports.k, b, kv_head, chunk.begin, chunk.end, call.problem.d_padded, s.k_rows);
  }

  // The chunk that the scratch holds against those runs of it. `lse` and `dot` are the tile's. Adds to dK and dV and
  // leaves dS ready for dQ.
  static void chunk_against_rows(const BackwardCall& call, const RowTile& tile, int64_t b, int64_t kv_head,
                                 sdk::Run chunk, const std::vector<sdk::Run>& runs, const float* lse, const float* dot,
                                 const BackwardScratch& s) {
    const Problem& p = call.problem;
    read_queries(p, call.ports.q, tile, b, kv_head, p.query_factor(), p.d_padded, s.query);
    read_queries(p, call.ports.d_o, tile, b, kv_head, 1.0f, p.e_padded, s.d_out);
    for (const sdk::Run& run : runs) {
      const int64_t step = p.full(tile, run) ? tile.rows : kPartRows, at = run.begin - chunk.begin;
      for (int64_t row = 0; row < tile.rows; row += step)
        weights_of_rows(call, Problem::part(tile, row, step), row, b, kv_head, chunk, run, lse + row, dot + row, s);
      multiply<true>(run.size(), p.e_padded, tile.rows, {s.weight + at, kChunkKeys}, row_major(s.d_out, p.e_padded),
                     s.dv + at * p.e_padded, p.e_padded, true);
      multiply<true>(run.size(), p.d_padded, tile.rows, {s.d_score + at, kChunkKeys}, row_major(s.query, p.d_padded),
                     s.dk + at * p.d_padded, p.d_padded, true);
    }
  }

  // dQ of the tile, before scaling: dS · K over the same keys.
  static void add_query_gradient(const Problem& p, const RowTile& tile, sdk::Run chunk,
                                 const std::vector<sdk::Run>& runs, const BackwardScratch& s, float* dq, bool add) {
    for (const sdk::Run& run : runs) {
      const int64_t at = run.begin - chunk.begin;
      multiply<false>(tile.rows, p.d_padded, run.size(), {s.d_score + at, kChunkKeys},
                      row_major(s.k_rows + at * p.d_padded, p.d_padded), dq, p.d_padded, add);
      add = true;
    }
  }

  static float key_factor(const Problem& p) { return static_cast<float>(p.scale) / p.query_factor(); }
};

}  // namespace tenon::sdk::flash
