// The decode state: of each key head the tiles that later queries can see. Heads of a group have the same number of
// slots. A group's memory is k [heads, rows, d], then v [heads, rows, e], in the type of the call; rows = slots ·
// block. The first `band` slots are the band, tile j in slot j mod band; a tile of the head's shard that leaves the
// band moves to the next slot behind them.
#pragma once

#include "pattern.h"
#include "sdk/attention/ports.h"

namespace tenon::s2 {

class Cache {
 public:
  struct Group {
    int64_t first, heads;  // key heads of this rank
    int64_t band, kept;    // slots
    uint64_t at;           // byte offset in the state
    int64_t rows(int64_t block) const { return (band + kept) * block; }
  };

  // tokens: the longest sequence. Two groups at the most: sharded heads, dense heads.
  Cache(const Sharding& s, int64_t kv_heads, int64_t d, int64_t e, tn_dtype dtype, int64_t tokens)
      : s_(s), d_(d), e_(e), dtype_(dtype), tokens_(tokens) {
    const int64_t tiles = (tokens + s.block - 1) / s.block,
                  sharded = std::clamp<int64_t>(s.dense_from - s.first_head, 0, kv_heads);
    const int64_t band = std::min(tiles, s.local), rest = tiles - band;
    if (sharded > 0) add({0, sharded, band, (rest + s.stride - 1) / s.stride, 0});
    if (sharded < kv_heads) add({sharded, kv_heads - sharded, tiles, 0, 0});
  }
  uint64_t bytes() const { return bytes_; }
  int64_t tokens() const { return tokens_; }
  const std::vector<Group>& groups() const { return groups_; }

  sdk::HeadRows keys(const Group& g, char* state) const { return rows_at(g, state + g.at, d_); }
  sdk::HeadRows values(const Group& g, char* state) const {
    return rows_at(g, state + g.at + static_cast<uint64_t>(g.heads * g.rows(s_.block) * d_ * size()), e_);
  }

  // The row of a group's memory that holds position p of a sequence whose last position is `last`, or −1: p is
  // forgotten.
  int64_t row(const Group& g, int64_t head, int64_t p, int64_t last) const {
    const int64_t j = p / s_.block, within = p % s_.block;
    if (last / s_.block - j < g.band) return j % g.band * s_.block + within;
    const int64_t shard = j - s_.first_kept(g.first + head);
    return shard >= 0 && shard % s_.stride == 0 ? (g.band + shard / s_.stride) * s_.block + within : -1;
  }
  // The rows that the query at the last position sees.
  void visible(const Group& g, int64_t head, int64_t last, std::vector<Run>& out) const {
    const int64_t i = last / s_.block, slot = i % g.band, end = slot * s_.block + last % s_.block + 1;
    out.push_back({0, end});
    if (i >= g.band) append(out, (slot + 1) * s_.block, g.band * s_.block);
    append(out, g.band * s_.block, (g.band + s_.kept_before(g.first + head, i - g.band + 1)) * s_.block);
  }
  // A tile begins at position p: what its slot held is moved to the shard, where it belongs there.
  void begin_tile(const Group& g, int64_t p, char* state) const {
    const int64_t old = p / s_.block - g.band;
    if (p % s_.block != 0 || old < 0) return;
    for (int64_t h = 0; h < g.heads; ++h) {
      const int64_t to = row(g, h, old * s_.block, p), from = old % g.band * s_.block;
      if (to < 0) continue;
      for (const sdk::HeadRows& x : {keys(g, state), values(g, state)})
        std::memcpy(x.at(0, to, h), x.at(0, from, h), static_cast<size_t>(s_.block * x.token));
    }
  }

 private:
  int64_t size() const { return dtype_.bits / 8; }
  void add(Group g) {
    g.at = bytes_;
    bytes_ += static_cast<uint64_t>(g.heads * g.rows(s_.block) * (d_ + e_) * size());
    bytes_ = (bytes_ + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT;
    groups_.push_back(g);
  }
  static void append(std::vector<Run>& out, int64_t begin, int64_t end) {
    sdk::flash::append_run(out, 0, begin, end, {begin, end});
  }
  sdk::HeadRows rows_at(const Group& g, char* data, int64_t width) const {
    return {data, dtype_, 0, width * size(), g.rows(s_.block) * width * size(), width, false};
  }

  Sharding s_;
  int64_t d_, e_;
  tn_dtype dtype_;
  int64_t tokens_;
  uint64_t bytes_ = 0;
  std::vector<Group> groups_;
};

}  // namespace tenon::s2
