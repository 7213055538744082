// The decode state: of each key head the tiles that later queries can see. Heads of a group have the same number of
// slots. A group's memory is k [heads, rows, d], then v [heads, rows, e], in the type of the call; rows = slots ·
// block. The first `band` slots are the band, tile j in slot j mod band; a tile of the head's shard that leaves the
// band moves to the next slot behind them.
#pragma once

#include "pattern.h"
#include "sdk/attention/ports.h"

namespace tenon::s2 {

// Key heads of this rank that share a layout.
struct Group {
  Sharding s;
  int64_t first, heads;
  int64_t band, kept;  // slots
  int64_t at;          // byte offset in the state
  TN_FN int64_t rows() const { return (band + kept) * s.block; }

  // The row of the group's memory that holds position p of a sequence whose last position is `last`, or −1: p is
  // forgotten.
  TN_FN int64_t row(int64_t head, int64_t p, int64_t last) const {
    const int64_t j = p / s.block, within = p % s.block;
    if (last / s.block - j < band) return j % band * s.block + within;
    const int64_t shard = j - s.first_kept(first + head);
    return shard >= 0 && shard % s.stride == 0 ? (band + shard / s.stride) * s.block + within : -1;
  }
  // The rows that the query at the last position sees.
  void visible(int64_t head, int64_t last, std::vector<Run>& out) const {
    const auto append = [&](int64_t begin, int64_t end) { sdk::flash::append_run(out, 0, begin, end, {begin, end}); };
    const int64_t i = last / s.block, slot = i % band, end = slot * s.block + last % s.block + 1;
    append(0, end);
    if (i >= band) append((slot + 1) * s.block, band * s.block);
    append(band * s.block, (band + s.kept_before(first + head, i - band + 1)) * s.block);
  }
};

class Cache {
 public:
  // tokens: the longest sequence. Two groups at the most: sharded heads, dense heads.
  Cache(const Sharding& s, int64_t kv_heads, int64_t d, int64_t e, tn_dtype dtype, int64_t tokens)
      : d_(d), e_(e), dtype_(dtype) {
    const int64_t tiles = (tokens + s.block - 1) / s.block,
                  sharded = std::clamp<int64_t>(s.dense_from - s.first_head, 0, kv_heads);
    const int64_t band = std::min(tiles, s.local), rest = tiles - band;
    if (sharded > 0) add({s, 0, sharded, band, (rest + s.stride - 1) / s.stride, 0});
    if (sharded < kv_heads) add({s, sharded, kv_heads - sharded, tiles, 0, 0});
  }
  uint64_t bytes() const { return static_cast<uint64_t>(bytes_); }
  const std::vector<Group>& groups() const { return groups_; }

  // Of all sequences of the state: [B, rows, heads of the group, width].
  sdk::HeadRows keys(const Group& g, const sdk::StateBytes& state) const { return rows_at(g, state, g.at, d_); }
  sdk::HeadRows values(const Group& g, const sdk::StateBytes& state) const {
    return rows_at(g, state, g.at + g.heads * g.rows() * d_ * size(), e_);
  }

 private:
  int64_t size() const { return dtype_.bits / 8; }
  void add(Group g) {
    g.at = bytes_;
    bytes_ += g.heads * g.rows() * (d_ + e_) * size();
    bytes_ = (bytes_ + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT;
    groups_.push_back(g);
  }
  sdk::HeadRows rows_at(const Group& g, const sdk::StateBytes& state, int64_t at, int64_t width) const {
    return {state.data + at, dtype_, state.row, width * size(), g.rows() * width * size(), width, false};
  }

  int64_t d_, e_;
  tn_dtype dtype_;
  int64_t bytes_ = 0;
  std::vector<Group> groups_;
};

}  // namespace tenon::s2
