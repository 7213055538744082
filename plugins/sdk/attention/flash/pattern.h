// Which tiles of keys a query tile sees, beyond the mask of the call: what block-sparse kernels add to the dense one.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "sdk/attention/mask.h"
#include "sdk/panel/lanes.h"

namespace tenon::sdk::flash {

// Positions are global. Tiles have 16 positions or more, so that pieces of different tiles never share a vector.
class BlockPattern {
 public:
  explicit BlockPattern(int64_t block_q, bool by_head = true) : block_q(block_q), by_head(by_head) {}
  virtual ~BlockPattern() = default;
  // Appends the runs of key positions within `limit` that query tile i of this rank's key head g sees: ascending,
  // adjacent tiles as one run.
  virtual void runs(int64_t g, int64_t i, Run limit, std::vector<Run>& out) const = 0;

  const int64_t block_q;
  const bool by_head;  // false: every key head sees the same
};

// Appends [begin, end) within limit to the runs from `first` on, joined to the last one where they touch.
inline void append_run(std::vector<Run>& out, size_t first, int64_t begin, int64_t end, Run limit) {
  begin = std::max(begin, limit.begin), end = std::min(end, limit.end);
  if (begin >= end) return;
  if (out.size() > first && out.back().end == begin)
    out.back().end = end;
  else
    out.push_back({begin, end});
}

// What both of two patterns show.
class BothPatterns final : public BlockPattern {
 public:
  BothPatterns(std::shared_ptr<const BlockPattern> a, std::shared_ptr<const BlockPattern> b)
      : BlockPattern(std::min(a->block_q, b->block_q), a->by_head || b->by_head), a_(std::move(a)), b_(std::move(b)) {}
  void runs(int64_t g, int64_t i, Run limit, std::vector<Run>& out) const override {
    std::vector<Run> first, second;
    a_->runs(g, panel::floor_div(i * block_q, a_->block_q), limit, first);
    b_->runs(g, panel::floor_div(i * block_q, b_->block_q), limit, second);
    const size_t from = out.size();
    for (size_t m = 0, n = 0; m < first.size() && n < second.size();) {
      append_run(out, from, std::max(first[m].begin, second[n].begin), std::min(first[m].end, second[n].end), limit);
      first[m].end < second[n].end ? ++m : ++n;
    }
  }

 private:
  std::shared_ptr<const BlockPattern> a_, b_;
};

}  // namespace tenon::sdk::flash
