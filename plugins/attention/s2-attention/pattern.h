// The sharding of S2-Attention (Lin et al. 2024): query tile i of key head g sees key tile j <= i where
//   i − j < local  or  (j + g·step + offset) mod stride = 0.
// j counts from the sequence's start, so a head keeps a tile for ever or drops it once it leaves the band.
#pragma once

#include "sdk/attention/flash/pattern.h"

namespace tenon::s2 {

using sdk::Run;

struct Sharding {
  int64_t block, local, stride, step, offset;
  int64_t first_head, dense_from;  // of this rank's key heads among all; heads from dense_from on see everything
  bool homogeneous;                // every head has the shard of head 0

  TN_FN bool dense(int64_t g) const { return first_head + g >= dense_from; }
  // The first tile of the head's shard.
  TN_FN int64_t first_kept(int64_t g) const {
    const int64_t head = homogeneous ? 0 : first_head + g;
    return (stride - (head * step + offset) % stride) % stride;
  }
  // Tiles of the head's shard among the first n.
  TN_FN int64_t kept_before(int64_t g, int64_t n) const {
    const int64_t first = first_kept(g);
    return n > first ? (n - first + stride - 1) / stride : 0;
  }
};

class Pattern final : public sdk::flash::BlockPattern {
 public:
  explicit Pattern(const Sharding& s) : BlockPattern(s.block), s_(s) {}
  void runs(int64_t g, int64_t i, Run limit, std::vector<Run>& out) const override {
    const size_t first = out.size();
    const auto show = [&](int64_t begin, int64_t end) {
      sdk::flash::append_run(out, first, begin * s_.block, end * s_.block, limit);
    };
    if (s_.dense(g)) return show(0, i + 1);
    const int64_t band = std::max<int64_t>(0, i - s_.local + 1), from = sdk::panel::floor_div(limit.begin, s_.block);
    for (int64_t j = s_.first_kept(g) + s_.kept_before(g, from) * s_.stride; j < band && j * s_.block < limit.end;
         j += s_.stride)
      show(j, j + 1);
    show(band, i + 1);
  }

 private:
  Sharding s_;
};

}  // namespace tenon::s2
