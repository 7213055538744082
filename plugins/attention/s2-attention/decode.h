// Decoding with the cache: rows go in one by one, each query sees what its head has kept.
#pragma once

#include "cache.h"
#include "sdk/attention/flash/kernel.h"
#include "sdk/device_memory.h"
#include "sdk/for_each.h"

namespace tenon::s2 {

// Rows of a group's memory, as a pattern of the dense kernel: position = row.
class Kept final : public sdk::flash::BlockPattern {
 public:
  Kept(const Group& group, int64_t last)
      : BlockPattern(int64_t{1} << 40), runs_(static_cast<size_t>(group.heads)) {
    for (int64_t h = 0; h < group.heads; ++h) group.visible(h, last, runs_[static_cast<size_t>(h)]);
  }
  void runs(int64_t g, int64_t, Run limit, std::vector<Run>& out) const override {
    const size_t first = out.size();
    for (const Run& r : runs_[static_cast<size_t>(g)]) sdk::flash::append_run(out, first, r.begin, r.end, limit);
  }

 private:
  std::vector<std::vector<Run>> runs_;
};

// One query of every head of a group over the group's memory.
inline sdk::flash::Problem one_query(const tn_attention_config& whole, const Group& g, int64_t batch, int64_t last,
                                     tn_dtype dtype) {
  tn_attention_config config = whole;
  config.n_heads = static_cast<uint32_t>(g.heads * (whole.n_heads / whole.n_kv_heads)),
  config.n_kv_heads = static_cast<uint32_t>(g.heads);
  tn_attention_shape shape{};
  shape.struct_size = sizeof shape;
  shape.batch = batch, shape.t_q = 1, shape.t_k = g.rows(), shape.dtype = dtype;
  return {config, shape, std::make_shared<Kept>(g, last)};
}

TN_FN void copy_row(const sdk::Block& block, const void* from, void* to, int64_t bytes) {
  const uint16_t* const source = static_cast<const uint16_t*>(from);
  uint16_t* const target = static_cast<uint16_t*>(to);
  block.each(bytes / 2, [=](int64_t i) { target[i] = source[i]; });
}

// Position first + r of a sequence whose last position is `last`: row first_row + r of the call's k or v, to where the
// group keeps it. One block a batch entry, head of the group and position.
struct Remember {
  Group g;
  sdk::HeadRows from, to;
  int64_t first_row, first, n, last;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t r = block.index % n, h = block.index / n % g.heads, b = block.index / n / g.heads,
                  row = g.row(h, first + r, last);
    if (row >= 0) copy_row(block, from.at(b, first_row + r, g.first + h), to.at(b, row, h), to.token);
  }
};

// Tile `old`, which leaves the band at position p, moves to the head's shard, where it belongs there. One block a batch
// entry, head of the group and row of the tile.
struct LeaveBand {
  Group g;
  sdk::HeadRows x;
  int64_t old, p;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t r = block.index % g.s.block, h = block.index / g.s.block % g.heads, b = block.index / g.s.block / g.heads,
                  row = g.row(h, old * g.s.block + r, p);
    if (row >= 0) copy_row(block, x.at(b, old % g.band * g.s.block + r, h), x.at(b, row, h), x.token);
  }
};

// Positions [first, first + n), whose k and v are rows of the call from first_row on: what the next query may see of
// them, and nothing else. Several positions come in at once only where a sequence begins.
inline void remember(const tn_exec* exec, const Cache& cache, const sdk::HeadRows& k, const sdk::HeadRows& v,
                     const sdk::StateBytes& state, int64_t batch, int64_t first_row, int64_t first, int64_t n) {
  for (const Group& g : cache.groups()) {
    const sdk::HeadRows keys = cache.keys(g, state), values = cache.values(g, state);
    const int64_t old = first / g.s.block - g.band;
    for (const auto& [from, to] : {std::pair{k, keys}, std::pair{v, values}}) {
      if (n == 1 && first % g.s.block == 0 && old >= 0)
        sdk::for_each_block(exec, batch * g.heads * g.s.block, LeaveBand{g, to, old, first}, to.width);
      sdk::for_each_block(exec, batch * g.heads * n, Remember{g, from, to, first_row, first, n, first + n - 1}, to.width);
    }
  }
}

}  // namespace tenon::s2
