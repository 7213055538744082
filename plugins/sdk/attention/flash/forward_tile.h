// The inner loop of the forward pass: one row tile against a run of keys.
#pragma once

#include "sdk/attention/flash/softmax.h"
#include "sdk/panel/pack.h"
#include "sdk/workspace.h"

namespace tenon::sdk::flash {

// What one thread needs for one row tile.
struct ForwardScratch {
  float *query, *score;
  Running run;
  mutable RowsAhead ahead;  // steps with each row of weights
  explicit ForwardScratch(sdk::Workspace& w, const Problem& p)
      : query(w.take(kTileRows * p.d_padded)),
        score(w.take(kPartRows * kTileKeys)),
        run{w.take(kTileRows), w.take(kTileRows), w.take(kTileRows * p.e_padded)} {}
};

// The key tiles of a row tile: its visible keys cut every kTileKeys rows, beginning where a panel begins.
inline std::vector<sdk::Run> key_tiles(const Problem& p, const RowTile& tile, int64_t kv_head) {
  std::vector<sdk::Run> runs, tiles;
  p.key_runs(tile, kv_head, runs);
  for (const sdk::Run& run : runs)
    for (int64_t at = run.begin / kPanel * kPanel; at < run.end; at += kTileKeys)
      tiles.push_back({std::max(at, run.begin), std::min(at + kTileKeys, run.end)});
  return tiles;
}

inline void read_queries(const Problem& p, const sdk::HeadRows& x, const RowTile& tile, int64_t b, int64_t kv_head,
                         float factor, int64_t padded, float* to) {
  each_row(p, {&x}, tile, b, kv_head, kAhead, [&](int64_t r, int64_t token, int64_t head) {
    x.read(b, token, head, factor, to + r * padded);
    for (int64_t c = x.width; c < padded; ++c) to[r * padded + c] = 0.0f;
  });
}

inline tn_rng row_key(const Problem& p, const tn_rng& rng, const RowTile& tile, int64_t b, int64_t head) {
  return sdk::dropout_key(rng, static_cast<uint64_t>(p.listed ? tile.segment : b),
                          static_cast<uint64_t>(p.head_offset + head));
}

// A run of keys whose columns begin where a vector of its panels does.
struct KeySpan {
  sdk::Run keys;
  int64_t origin;  // the key of the panels' first column
  int64_t base() const { return origin + (keys.begin - origin) / kLanes * kLanes; }  // the first column computed
  int64_t columns() const { return round_up(keys.end - base(), kLanes); }
};

// A run of keys as the forward products read it, in f32: `k` has the panels from key `origin` on, `v` the rows from
// keys.begin on. Scores lie in rows of kTileKeys; those of the run begin at a column.
struct KeyRun : KeySpan {
  const float *k, *v;
  // The same for fewer keys.
  KeyRun narrowed(sdk::Run to, const Problem& p) const {
    return {{to, origin}, k, v + (to.begin - keys.begin) * p.e_padded};
  }
  void scores(const Problem& p, int64_t rows, const float* query, float* to) const {
    multiply_columns(rows, columns(), p.d, {query, p.d_padded}, k, base() - origin, to, kTileKeys);
  }
  static void softmax(const Problem& p, float* score, int64_t n, float& top, float& sum, float* out) {
    softmax_row(score, n, top, sum, out, p.e_padded);
  }
  void add_values(const Problem& p, int64_t rows, const float* score, int64_t column, float* out) const {
    multiply<false>(rows, p.e_padded, keys.size(), {score + column, kTileKeys}, row_major(v, p.e_padded), out,
                    p.e_padded, true);
  }
};

inline void drop_weights(const ForwardCall& call, const RowTile& tile, int64_t r, int64_t b, int64_t kv_head,
                         sdk::Run keys, float* weight) {
  const Problem& p = call.problem;
  const sdk::Segment& segment = p.segments[tile.segment];
  float keep[kTileKeys];
  sdk::keep_factors(call.dropout, row_key(p, call.rng, tile, b, p.head(kv_head, tile, r)),
                    segment.q_pos + p.query(tile, r), segment.k_pos + keys.begin - segment.k_begin,
                    keys.end - keys.begin, keep);
  for (int64_t c = 0; c < keys.end - keys.begin; ++c) weight[c] *= keep[c];
}

// Rows [row, row + part.rows) of the tile in scratch against one run of keys; `whole`: every row sees every key.
template <class Keys>
void attend_rows(const ForwardCall& call, const RowTile& part, int64_t row, int64_t b, int64_t kv_head, const Keys& run,
                 bool whole, const ForwardScratch& s) {
  const Problem& p = call.problem;
  const int64_t n = run.columns(), offset = run.keys.begin - run.base();
  float* out = s.run.out + row * p.e_padded;
  run.scores(p, part.rows, s.query + row * p.d_padded, s.score);
  KeysOfRows seen(p, part);
  for (int64_t r = 0; r < part.rows; ++r) {
    float* score = s.score + r * kTileKeys;
    if (p.softcap > 0) bend(score, n, p.cap());
    if (!whole)
      each_hidden(seen.row(r), run.base(), n, run.keys,
                  [&](int64_t from, int64_t to) { std::fill(score + from, score + to, -INFINITY); });
    Keys::softmax(p, score, n, s.run.top[row + r], s.run.sum[row + r], out + r * p.e_padded);
    s.ahead.step();
    if (call.dropout.threshold) drop_weights(call, part, r, b, kv_head, run.keys, score + offset);
  }
  run.add_values(p, part.rows, s.score, offset, out);
}

// A run without hidden keys and without columns beyond its own.
inline bool is_whole(const Problem& p, const RowTile& tile, const KeySpan& run) {
  return run.keys.begin == run.base() && run.keys.size() == run.columns() && p.full(tile, run.keys);
}

// Whole runs together, and one more that the mask may cut, `edge` or null: one softmax for all of them, which are at
// most kTileKeys columns.
template <class Keys>
void attend_pieces(const ForwardCall& call, const RowTile& tile, int64_t b, int64_t kv_head,
                   const std::vector<Keys>& pieces, const Keys* edge, const ForwardScratch& s) {
  const Problem& p = call.problem;
  int64_t n = 0;
  for (const Keys& run : pieces) n += run.columns();
  for (int64_t row = 0; row < tile.rows; row += kPartRows) {
    const RowTile part = Problem::part(tile, row, kPartRows);
    const sdk::Run seen = edge ? clip(p.keys(part), edge->keys) : sdk::Run{0, 0};
    const Keys cut = seen.size() ? edge->narrowed(seen, p) : pieces[0];
    const int64_t more = seen.size() ? cut.columns() : 0, first = n + cut.keys.begin - cut.base();
    float *scores = s.score, *out = s.run.out + row * p.e_padded;
    const float* query = s.query + row * p.d_padded;
    int64_t at = 0;
    for (const Keys& run : pieces) run.scores(p, part.rows, query, scores + at), at += run.columns();
    if (more) cut.scores(p, part.rows, query, scores + n);
    KeysOfRows seen_by(p, part);
    for (int64_t r = 0; r < part.rows; ++r) {
      float* score = scores + r * kTileKeys;
      if (p.softcap > 0) bend(score, n + more, p.cap());
      if (more)
        each_hidden(seen_by.row(r), cut.base(), more, cut.keys,
                    [&](int64_t from, int64_t to) { std::fill(score + n + from, score + n + to, -INFINITY); });
      Keys::softmax(p, score, n + more, s.run.top[row + r], s.run.sum[row + r], out + r * p.e_padded);
      s.ahead.step();
      if (!call.dropout.threshold) continue;
      if (more) drop_weights(call, part, r, b, kv_head, cut.keys, score + first);
      for (const Keys& run : pieces) drop_weights(call, part, r, b, kv_head, run.keys, score), score += run.columns();
    }
    if (more) cut.add_values(p, part.rows, scores, first, out);
    at = 0;
    for (const Keys& run : pieces) run.add_values(p, part.rows, scores, at, out), at += run.columns();
  }
}

// One row tile against one run of keys.
template <class Keys>
void attend(const ForwardCall& call, const RowTile& tile, int64_t b, int64_t kv_head, const Keys& run,
            const ForwardScratch& s) {
  const Problem& p = call.problem;
  const bool whole = is_whole(p, tile, run);
  for (int64_t row = 0; row < tile.rows; row += kPartRows) {
    const RowTile part = Problem::part(tile, row, kPartRows);
    const sdk::Run keys = whole ? run.keys : clip(p.keys(part), run.keys);
    if (!keys.size()) continue;
    const Keys narrow = run.narrowed(keys, p);
    attend_rows(call, part, row, b, kv_head, narrow, whole || is_whole(p, part, narrow), s);
  }
}

// One row tile against all of its keys; at(tile) is one key tile as the products read it, valid until the next is asked
// for where `reused`. Short whole tiles, as patterns leave them, are gathered.
template <class At>
void attend_all(const ForwardCall& call, const RowTile& tile, int64_t b, int64_t kv_head, const sdk::Run* tiles,
                int64_t count, bool reused, const ForwardScratch& s, At at) {
  using Keys = decltype(at(tiles[0]));
  std::vector<Keys> pieces;
  int64_t gathered = 0;
  const auto flush = [&] {
    if (pieces.size() == 1) attend(call, tile, b, kv_head, pieces[0], s);
    if (pieces.size() > 1) attend_pieces<Keys>(call, tile, b, kv_head, pieces, nullptr, s);
    pieces.clear(), gathered = 0;
  };
  for (int64_t t = 0; t < count; ++t) {
    const Keys run = at(tiles[t]);
    if (reused || !is_whole(call.problem, tile, run)) {
      if (!pieces.empty() && gathered + run.columns() <= kTileKeys) {
        attend_pieces(call, tile, b, kv_head, pieces, &run, s);
        pieces.clear(), gathered = 0;
        continue;
      }
      flush();
      attend(call, tile, b, kv_head, run, s);
      continue;
    }
    if (gathered + run.columns() > kTileKeys) flush();
    pieces.push_back(run), gathered += run.columns();
  }
  flush();
}

// Adds the sink logit, divides, and writes O and L.
inline void finish(const ForwardCall& call, const RowTile& tile, int64_t b, int64_t kv_head, const Running& run) {
  const Problem& p = call.problem;
  each_row(p, {&call.ports.o}, tile, b, kv_head, kAhead, [&](int64_t r, int64_t token, int64_t head) {
    float top = run.top[r], sum = run.sum[r], shrink = 1.0f;
    if (call.ports.sink_logit) {
      const float logit = call.ports.sink_logit.at(0, head, 0) * kLog2E, new_top = std::max(top, logit);
      if (new_top != -INFINITY) {
        shrink = std::exp2(top - new_top);
        sum = sum * shrink + std::exp2(logit - new_top), top = new_top;
      }
    }
    const bool seen = sum != 0.0f;  // a NaN counts as seen and stays NaN
    call.ports.o.write(b, token, head, seen ? shrink / sum : 0.0f, run.out + r * p.e_padded);
    if (call.ports.lse) call.ports.lse.at(b, head, token) = seen ? (top + std::log2(sum)) * kLn2 : -INFINITY;
  });
}

}  // namespace tenon::sdk::flash
