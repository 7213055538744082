// The inner step of the backward pass: one chunk of keys against one row tile. Weights are recomputed from L
// (FlashAttention, Dao et al. 2022): P = exp(S − L), dV += Pᵀ dO, dP = dO Vᵀ, dS = P ∘ (dP − D), dQ += dS K, dK += dSᵀ
// Q.
#pragma once

#include "forward_tile.h"

namespace tenon::flash {

struct BackwardPorts {
  sdk::HeadRows q, k, v, o, d_o, dq, dk, dv;
  sdk::RowNumbers lse, d_lse, sink_logit, d_sink_logit;
};

struct BackwardCall {
  const Problem& problem;
  BackwardPorts ports;
  sdk::Dropout dropout;
  tn_rng rng;
};

// What one thread needs: the row tile's Q and dO, two score tiles, and its chunk of keys with the gradients.
struct BackwardScratch {
  float *query, *d_out, *weight, *d_score;
  float *k_panels, *v_panels, *k_rows, *dk, *dv;
  explicit BackwardScratch(Workspace& w, const Problem& p)
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
    const Vec weight = sdk::vexp2(load(score + c) - base);
    store(score + c, weight);
    store(d_weight + c, weight * (load(d_weight + c) - mean));
  }
}

inline void weights_row_capped(float* score, float* d_weight, int64_t n, float lse, float dot, float cap) {
  const Vec base = broadcast(lse), mean = broadcast(dot);
  for (int64_t c = 0; c < n; c += kLanes) {
    const Vec bent = sdk::vtanh(load(score + c)), weight = sdk::vexp2(bent * cap - base);
    store(score + c, weight);
    store(d_weight + c, weight * (load(d_weight + c) - mean) * (1.0f - bent * bent));
  }
}

// Rows [row, row + part.rows) of the tile in scratch: P and dS over the columns of the chunk from key `base` on,
// `columns` of them; 0 where a row sees nothing.
inline void weights_of_rows(const BackwardCall& call, const RowTile& part, int64_t row, int64_t b, int64_t kv_head,
                            sdk::Run chunk, int64_t base, int64_t columns, const float* lse, const float* dot,
                            const BackwardScratch& s) {
  const Problem& p = call.problem;
  const sdk::Run keys = clip(p.keys(part), {base, std::min(base + columns, chunk.end)});
  const int64_t skipped = keys.size() ? (keys.begin - base) / kPanel * kPanel : 0, at = base + skipped - chunk.begin;
  const int64_t n = keys.size() ? round_up(keys.end - base - skipped, kLanes) : 0;
  const bool whole = keys.size() == columns && p.full(part, keys);
  float *weights = s.weight + row * kChunkKeys, *d_scores = s.d_score + row * kChunkKeys;
  multiply<false>(part.rows, n, p.d, {s.query + row * p.d_padded, p.d_padded}, packed(s.k_panels + at * p.d, p.d),
                  weights + skipped, kChunkKeys, false);
  multiply<false>(part.rows, n, p.e, {s.d_out + row * p.e_padded, p.e_padded}, packed(s.v_panels + at * p.e, p.e),
                  d_scores + skipped, kChunkKeys, false);
  for (int64_t r = 0; r < part.rows; ++r) {
    float *weight = weights + r * kChunkKeys, *d_score = d_scores + r * kChunkKeys;
    float keep[kChunkKeys];
    const int64_t first = keys.begin - base, size = keys.size();
    if (call.dropout.threshold && size) {
      const sdk::Segment& segment = p.segments[part.segment];
      sdk::keep_factors(call.dropout, row_key(p, call.rng, part, b, p.head(kv_head, part, r)),
                        segment.q_pos + p.query(part, r), segment.k_pos + keys.begin - segment.k_begin, size, keep);
      for (int64_t c = 0; c < size; ++c) d_score[first + c] *= keep[c];
    }
    if (p.softcap > 0) {
      weights_row_capped(weight + skipped, d_score + skipped, n, lse[r], dot[r], p.cap());
    } else {
      weights_row(weight + skipped, d_score + skipped, n, lse[r], dot[r]);
    }
    if (call.dropout.threshold)
      for (int64_t c = 0; c < size; ++c) weight[first + c] *= keep[c];
    if (!whole)
      each_hidden(p.keys(part, r), base, columns, keys, [&](int64_t from, int64_t to) {
        std::fill(weight + from, weight + to, 0.0f);
        std::fill(d_score + from, d_score + to, 0.0f);
      });
  }
}

// The chunk that the scratch holds against the keys of it that the tile may see. `lse` and `dot` are the tile's. Adds
// to dK and dV and leaves dS ready for dQ.
inline void chunk_against_rows(const BackwardCall& call, const RowTile& tile, int64_t b, int64_t kv_head,
                               sdk::Run chunk, sdk::Run keys, const float* lse, const float* dot,
                               const BackwardScratch& s) {
  const Problem& p = call.problem;
  const int64_t at = keys.begin - chunk.begin, base = chunk.begin + at / kPanel * kPanel,
                columns = round_up(keys.end - base, kLanes);
  read_queries(p, call.ports.q, tile, b, kv_head, p.query_factor(), p.d_padded, s.query);
  read_queries(p, call.ports.d_o, tile, b, kv_head, 1.0f, p.e_padded, s.d_out);
  const int64_t step = p.full(tile, {base, base + columns}) ? tile.rows : kEdgeRows;
  for (int64_t row = 0; row < tile.rows; row += step)
    weights_of_rows(call, Problem::part(tile, row, step), row, b, kv_head, chunk, base, columns, lse + row, dot + row,
                    s);

  const int64_t offset = keys.begin - base, size = keys.size(), rows = tile.rows;
  multiply<true>(size, p.e_padded, rows, {s.weight + offset, kChunkKeys}, row_major(s.d_out, p.e_padded),
                 s.dv + at * p.e_padded, p.e_padded, true);
  multiply<true>(size, p.d_padded, rows, {s.d_score + offset, kChunkKeys}, row_major(s.query, p.d_padded),
                 s.dk + at * p.d_padded, p.d_padded, true);
}

// dQ of the tile, before scaling: dS · K over the same keys.
inline void add_query_gradient(const Problem& p, const RowTile& tile, sdk::Run chunk, sdk::Run keys,
                               const BackwardScratch& s, float* dq, bool add) {
  const int64_t offset = (keys.begin - chunk.begin) % kPanel;
  multiply<false>(tile.rows, p.d_padded, keys.end - keys.begin, {s.d_score + offset, kChunkKeys},
                  row_major(s.k_rows + (keys.begin - chunk.begin) * p.d_padded, p.d_padded), dq, p.d_padded, add);
}

}  // namespace tenon::flash
