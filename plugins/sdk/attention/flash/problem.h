// One call, lowered: sizes, mask, segments, tiles. Everything that decides the schedule follows from the shape alone,
// so results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "sdk/attention/dropout.h"
#include "sdk/attention/flash/pattern.h"
#include "sdk/attention/mask.h"
#include "sdk/attention/ports.h"
#include "sdk/attention/segments.h"
#include "sdk/panel/lanes.h"

namespace tenon::sdk::flash {

using namespace panel;

// Query rows of a tile; rows are (query, head of the group), heads fastest.
inline constexpr int64_t kTileRows = TN_GPU ? 64 : 96;
// Rows taken at a time: the scores of a forward part stay in the first-level cache, and where a mask cuts the tile little
// hidden work is done.
inline constexpr int64_t kPartRows = 24;
inline constexpr int64_t kTileKeys = 256;   // keys of a forward tile
inline constexpr int64_t kChunkKeys = 192;  // keys of a backward chunk
inline constexpr float kLog2E = 1.44269504088896340736f;
inline constexpr float kLn2 = 0.69314718055994530942f;

// kTileRows rows or fewer of one segment; row r is query r / G of the segment, head r % G of the group.
struct RowTile {
  int32_t segment;
  int32_t rows;
  int64_t first;
};

struct Problem {
  int64_t batch, t_q, t_k, heads, kv_heads, group, d, e;
  int64_t d_padded, e_padded;  // to whole vectors
  double scale, softcap;
  uint32_t head_offset;
  sdk::Mask mask;
  std::vector<sdk::Segment> segments;
  bool listed;                                  // segments came as a list
  std::shared_ptr<const BlockPattern> pattern;  // null: the mask alone decides
  std::vector<RowTile> tiles;                   // each within one query tile of the pattern

  Problem(const tn_attention_config& config, const tn_attention_shape& shape,
          std::shared_ptr<const BlockPattern> blocks = nullptr)
      : batch(shape.batch),
        t_q(shape.t_q),
        t_k(shape.t_k),
        heads(config.n_heads),
        kv_heads(config.n_kv_heads),
        group(heads / kv_heads),
        d(config.d_qk),
        e(config.d_v),
        d_padded(round_up(d, kLanes)),
        e_padded(round_up(e, kLanes)),
        scale(config.scale != 0 ? config.scale : 1.0 / std::sqrt(static_cast<double>(d))),
        softcap(config.softcap),
        head_offset(config.head_offset),
        mask(sdk::lower_mask(shape, true)),
        segments(sdk::lower_segments(shape)),
        listed(shape.segments != nullptr),
        pattern(std::move(blocks)) {
    for (size_t s = 0; s < segments.size(); ++s)
      for (int64_t row = 0, n = segments[s].q_len * group, rows; row < n; row += rows) {
        rows = std::min(kTileRows, n - row);
        if (pattern) {
          const int64_t position = segments[s].q_pos + row / group,
                        next = (floor_div(position, pattern->block_q) + 1) * pattern->block_q;
          rows = std::min(rows, (next - segments[s].q_pos) * group - row);
        }
        tiles.push_back({static_cast<int32_t>(s), static_cast<int32_t>(rows), row});
      }
  }

  int64_t groups() const { return batch * kv_heads; }
  int64_t maps() const { return pattern && pattern->by_head ? kv_heads : 1; }         // 1: all key heads see the same
  int64_t query(const RowTile& t, int64_t r) const { return (t.first + r) / group; }  // within the segment
  int64_t head(int64_t kv_head, const RowTile& t, int64_t r) const { return kv_head * group + (t.first + r) % group; }
  int64_t token(const RowTile& t, int64_t r) const { return segments[t.segment].q_begin + query(t, r); }
  int64_t first_row(const RowTile& t) const { return segments[t.segment].q_begin * group + t.first; }  // of t_q · group

  // Q is scaled as it is read, so that scores come out in units of log 2, or in units of the soft cap.
  float query_factor() const {
    return static_cast<float>(softcap > 0 ? scale / softcap : scale * static_cast<double>(kLog2E));
  }
  float cap() const { return static_cast<float>(softcap * static_cast<double>(kLog2E)); }

  // Rows of the key tensor that some row of the tile may see.
  sdk::VisibleKeys keys(const RowTile& t) const {
    const sdk::Segment& s = segments[t.segment];
    return shifted(sdk::visible_keys(mask, s.q_pos + query(t, 0), s.q_pos + query(t, t.rows - 1), s.k_pos, s.k_len),
                   s.k_begin);
  }
  sdk::VisibleKeys keys(const RowTile& t, int64_t r) const {
    const sdk::Segment& s = segments[t.segment];
    return shifted(sdk::visible_keys(mask, s.q_pos + query(t, r), s.k_pos, s.k_len), s.k_begin);
  }
  bool full(const RowTile& t, sdk::Run keys) const {
    const sdk::Segment& s = segments[t.segment];
    return sdk::classify(mask, s.q_pos + query(t, 0), s.q_pos + query(t, t.rows - 1), s.k_pos, s.k_len,
                         {keys.begin - s.k_begin, keys.end - s.k_begin}) == sdk::Cover::kFull &&
           keys.begin >= s.k_begin;
  }

  // Appends the runs of key rows that some row of the tile may see, under mask and pattern; those within `limit`.
  void key_runs(const RowTile& t, int64_t kv_head, std::vector<sdk::Run>& out) const {
    key_runs(t, kv_head, {0, t_k}, out);
  }
  void key_runs(const RowTile& t, int64_t kv_head, sdk::Run limit, std::vector<sdk::Run>& out) const {
    const sdk::VisibleKeys seen = keys(t);
    for (sdk::Run r : {seen.sink, seen.window}) {
      r = {std::max(r.begin, limit.begin), std::min(r.end, limit.end)};
      if (!r.size()) continue;
      if (!pattern) {
        out.push_back(r);
        continue;
      }
      const sdk::Segment& s = segments[t.segment];
      const int64_t shift = s.k_pos - s.k_begin;
      const size_t first = out.size();
      pattern->runs(kv_head, floor_div(s.q_pos + query(t, 0), pattern->block_q), {r.begin + shift, r.end + shift}, out);
      for (size_t n = first; n < out.size(); ++n) out[n].begin -= shift, out[n].end -= shift;
    }
  }

  // Rows [row, row + n) of a tile as a tile of their own.
  static RowTile part(const RowTile& t, int64_t row, int64_t n) {
    return {t.segment, static_cast<int32_t>(std::min<int64_t>(n, t.rows - row)), t.first + row};
  }

  // Pairs of query row and key, over all heads and batch entries.
  double visible_pairs() const {
    double pairs = 0;
    std::vector<sdk::Run> runs;
    for (int64_t g = 0; g < maps(); ++g)
      for (const RowTile& t : tiles) {
        runs.clear();
        key_runs(t, g, runs);
        for (const sdk::Run& run : runs)
          for (int64_t r = 0, step; r < t.rows; r += step) {
            const bool all = full(t, run);
            step = all ? t.rows : std::min<int64_t>(group - (t.first + r) % group, t.rows - r);  // heads of one query
            pairs += static_cast<double>(step * (all ? run.size() : visible_in(keys(t, r), run)));
          }
      }
    return pairs * static_cast<double>(batch) * static_cast<double>(kv_heads / maps());
  }

 private:
  static int64_t visible_in(const sdk::VisibleKeys& seen, sdk::Run run) {
    int64_t n = 0;
    for (const sdk::Run& r : {seen.sink, seen.window})
      n += sdk::Run{std::max(r.begin, run.begin), std::min(r.end, run.end)}.size();
    return n;
  }
  static sdk::VisibleKeys shifted(sdk::VisibleKeys v, int64_t by) {
    return {{v.sink.begin + by, v.sink.end + by}, {v.window.begin + by, v.window.end + by}};
  }
};

// The rows of a tile one after another, without the divisions that asking for each of them takes.
class RowWalk {
 public:
  RowWalk(const Problem& p, const RowTile& t, int64_t kv_head, int64_t row = 0)
      : token(p.token(t, row)), head(p.head(kv_head, t, row)), group_(p.group), end_((kv_head + 1) * p.group) {}
  void next() {
    if (++head == end_) head -= group_, ++token;
  }
  int64_t token, head;

 private:
  int64_t group_, end_;
};

// What the rows of a tile may see, asked for in rising order: once for all heads of a query.
class KeysOfRows {
 public:
  KeysOfRows(const Problem& p, const RowTile& t) : p_(p), t_(t) {}
  const sdk::VisibleKeys& row(int64_t r) {
    if (r >= end_) seen_ = p_.keys(t_, r), end_ = r + p_.group - (t_.first + r) % p_.group;
    return seen_;
  }

 private:
  const Problem& p_;
  const RowTile& t_;
  sdk::VisibleKeys seen_{};
  int64_t end_ = 0;
};

// Calls f(row, token, head) for each row of the tile, and prefetch() of the tensors some rows ahead.
template <class F>
void each_row(const Problem& p, std::initializer_list<const sdk::HeadRows*> tensors, const RowTile& t, int64_t b,
              int64_t kv_head, int64_t ahead, F f) {
  RowWalk at(p, t, kv_head), later(p, t, kv_head, ahead);
  for (int64_t r = 0; r < t.rows; ++r, at.next(), later.next()) {
    if (r + ahead < t.rows)
      for (const sdk::HeadRows* x : tensors) x->prefetch(b, later.token, later.head);
    f(r, at.token, at.head);
  }
}

// Rows of tiles that are needed later, fetched one at each step, so that they come while the CPU computes.
class RowsAhead {
 public:
  void add(const Problem& p, const sdk::HeadRows& x, const RowTile& t, int64_t b, int64_t kv_head) {
    rows_.push_back({&x, RowWalk(p, t, kv_head), b, t.rows});
  }
  void clear() { rows_.clear(); }
  void step() {
    for (Rows& r : rows_)
      if (r.left > 0) r.x->prefetch(r.b, r.at.token, r.at.head), r.at.next(), --r.left;
  }

 private:
  struct Rows {
    const sdk::HeadRows* x;
    RowWalk at;
    int64_t b, left;
  };
  std::vector<Rows> rows_;
};

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

// The keys of `limit` between the first and the last visible one; empty (begin >= end) when there is none.
inline sdk::Run clip(const sdk::VisibleKeys& seen, sdk::Run limit) {
  sdk::Run hull{limit.end, limit.begin};
  for (const sdk::Run& r : {seen.sink, seen.window}) {
    const int64_t begin = std::max(r.begin, limit.begin), end = std::min(r.end, limit.end);
    if (begin < end) hull = {std::min(hull.begin, begin), std::max(hull.end, end)};
  }
  return hull;
}

// Calls f(begin, end) for the parts of [0, n) that a row does not see; `base` is the key row of column 0, `limit` the
// keys in question.
template <class F>
void each_hidden(const sdk::VisibleKeys& seen, int64_t base, int64_t n, sdk::Run limit, F f) {
  int64_t from = 0;
  for (const sdk::Run& run : {seen.sink, seen.window}) {
    const int64_t begin = std::max(run.begin, limit.begin) - base, end = std::min(run.end, limit.end) - base;
    if (begin >= end) continue;
    if (from < begin) f(from, begin);
    from = end;
  }
  if (from < n) f(from, n);
}

}  // namespace tenon::sdk::flash
