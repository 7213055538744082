// The inner loop of the forward pass: one row tile against a run of keys.
#pragma once

#include "pack.h"
#include "softmax.h"
#include "workspace.h"

namespace tenon::flash {

struct ForwardPorts {
  sdk::HeadRows q, k, v, o;
  sdk::RowNumbers lse, sink_logit;
};

struct ForwardCall {
  const Problem& problem;
  ForwardPorts ports;
  sdk::Dropout dropout;
  tn_rng rng;
};

// What one thread needs for one row tile.
struct ForwardScratch {
  float *query, *score;
  Running run;
  explicit ForwardScratch(Workspace& w, const Problem& p)
      : query(w.take(kTileRows * p.d_padded)),
        score(w.take(kTileRows * kTileKeys)),
        run{w.take(kTileRows), w.take(kTileRows), w.take(kTileRows * p.e_padded)} {}
};

// The key tiles of a row tile: its visible keys cut every kTileKeys rows, beginning where a panel begins.
struct KeyTiles {
  sdk::VisibleKeys keys;
  static int64_t origin(sdk::Run r) { return r.begin / kPanel * kPanel; }
  static int64_t count(sdk::Run r) { return r.size() ? (r.end - origin(r) + kTileKeys - 1) / kTileKeys : 0; }
  int64_t count() const { return count(keys.sink) + count(keys.window); }
  sdk::Run at(int64_t n) const {
    const bool in_sink = n < count(keys.sink);
    const sdk::Run run = in_sink ? keys.sink : keys.window;
    const int64_t begin = origin(run) + (in_sink ? n : n - count(keys.sink)) * kTileKeys;
    return {std::max(begin, run.begin), std::min(begin + kTileKeys, run.end)};
  }
};

inline void read_queries(const Problem& p, const sdk::HeadRows& x, const RowTile& tile, int64_t b, int64_t kv_head,
                         float factor, int64_t padded, float* to) {
  for (int64_t r = 0; r < tile.rows; ++r, to += padded) {
    if (r + kAhead < tile.rows) x.prefetch(b, p.token(tile, r + kAhead), p.head(kv_head, tile, r + kAhead));
    x.read(b, p.token(tile, r), p.head(kv_head, tile, r), factor, to);
    for (int64_t c = x.width; c < padded; ++c) to[c] = 0.0f;
  }
}

inline tn_rng row_key(const Problem& p, const tn_rng& rng, const RowTile& tile, int64_t b, int64_t head) {
  return sdk::dropout_key(rng, static_cast<uint64_t>(p.listed ? tile.segment : b),
                          static_cast<uint64_t>(p.head_offset + head));
}

// A run of keys as the forward products read it: `k` has the panels from key `base` on, `v` the rows from keys.begin
// on.
struct KeyRun {
  sdk::Run keys;
  int64_t base;
  const float *k, *v;
  // The same for fewer keys.
  KeyRun narrowed(sdk::Run to, const Problem& p) const {
    const int64_t skipped = (to.begin - base) / kPanel * kPanel;
    return {to, base + skipped, k + skipped * p.d, v + (to.begin - keys.begin) * p.e_padded};
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
inline void attend_rows(const ForwardCall& call, const RowTile& part, int64_t row, int64_t b, int64_t kv_head,
                        const KeyRun& run, bool whole, const ForwardScratch& s) {
  const Problem& p = call.problem;
  const int64_t n = round_up(run.keys.end - run.base, kLanes), offset = run.keys.begin - run.base;
  float* out = s.run.out + row * p.e_padded;
  multiply<false>(part.rows, n, p.d, {s.query + row * p.d_padded, p.d_padded}, packed(run.k, p.d), s.score, kTileKeys,
                  false);
  for (int64_t r = 0; r < part.rows; ++r) {
    float* score = s.score + r * kTileKeys;
    if (p.softcap > 0) bend(score, n, p.cap());
    if (!whole)
      each_hidden(p.keys(part, r), run.base, n, run.keys,
                  [&](int64_t from, int64_t to) { std::fill(score + from, score + to, -INFINITY); });
    softmax_row(score, n, s.run.top[row + r], s.run.sum[row + r], out + r * p.e_padded, p.e_padded);
    if (call.dropout.threshold) drop_weights(call, part, r, b, kv_head, run.keys, score + offset);
  }
  multiply<false>(part.rows, p.e_padded, run.keys.end - run.keys.begin, {s.score + offset, kTileKeys},
                  row_major(run.v, p.e_padded), out, p.e_padded, true);
}

// One row tile against one run of keys, in fewer rows at a time where the mask cuts it, so that little hidden work is
// done.
inline void attend(const ForwardCall& call, const RowTile& tile, int64_t b, int64_t kv_head, const KeyRun& run,
                   const ForwardScratch& s) {
  const Problem& p = call.problem;
  const auto aligned = [](const KeyRun& r) { return r.keys.begin == r.base && (r.keys.end - r.base) % kLanes == 0; };
  if (aligned(run) && p.full(tile, run.keys)) return attend_rows(call, tile, 0, b, kv_head, run, true, s);
  for (int64_t row = 0; row < tile.rows; row += kEdgeRows) {
    const RowTile part = Problem::part(tile, row, kEdgeRows);
    const sdk::Run keys = clip(p.keys(part), run.keys);
    if (!keys.size()) continue;
    const KeyRun narrow = run.narrowed(keys, p);
    attend_rows(call, part, row, b, kv_head, narrow, aligned(narrow) && p.full(part, keys), s);
  }
}

// Adds the sink logit, divides, and writes O and L.
inline void finish(const ForwardCall& call, const RowTile& tile, int64_t b, int64_t kv_head, const Running& run) {
  const Problem& p = call.problem;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t head = p.head(kv_head, tile, r), token = p.token(tile, r);
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
  }
}

}  // namespace tenon::flash
