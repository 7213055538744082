// The pattern of a mask's BLOCKS term.
#pragma once

#include <bit>

#include "sdk/attention/flash/pattern.h"
#include "tenon/attention.h"

namespace tenon::sdk::flash {

// Refuses maps that point outside of themselves. The map is the caller's and outlives the call.
class MapPattern final : public BlockPattern {
 public:
  MapPattern(const tn_mask_term& term, int64_t kv_heads)
      : BlockPattern(check(term, kv_heads).block_q, term.blocks->n_maps > 1), map_(*term.blocks) {}

  void runs(int64_t g, int64_t i, Run limit, std::vector<Run>& out) const override {
    if (i < 0 || i >= map_.n_rows) return;
    const int64_t* begin = map_.row_begin + (map_.n_maps == 1 ? 0 : g) * (map_.n_rows + 1) + i;
    const int64_t b = map_.block_k;
    const int32_t *at = std::lower_bound(map_.column + begin[0], map_.column + begin[1],
                                         panel::floor_div(limit.begin, b)),
                  *end = map_.column + begin[1];
    const size_t first = out.size();
    for (; at < end && *at * b < limit.end; ++at) append_run(out, first, *at * b, (*at + 1) * b, limit);
  }

 private:
  static const tn_block_map& check(const tn_mask_term& term, int64_t kv_heads) {
    if (!TN_HAS(&term, tn_mask_term, blocks) || !term.blocks)
      fail(TN_E_ARGUMENT, "a BLOCKS term of an attention mask has no map");
    const tn_block_map& m = *term.blocks;
    for (const uint32_t b : {m.block_q, m.block_k})
      if (b < 16 || !std::has_single_bit(b))
        fail(TN_E_ARGUMENT,
             "a block map has tiles of " + std::to_string(b) + " positions; powers of two from 16 on are possible");
    if (m.n_maps != 1 && m.n_maps != kv_heads)
      fail(TN_E_ARGUMENT,
           "a block map is for " + std::to_string(m.n_maps) + " key heads, the kernel has " + std::to_string(kv_heads));
    if (m.n_rows < 0 || m.n_columns < 0 || m.n_columns > INT32_MAX)
      fail(TN_E_ARGUMENT, "a block map has an impossible size");
    int64_t last = 0;
    for (int64_t h = 0; h < m.n_maps; ++h)
      for (int64_t i = 0; i <= m.n_rows; ++i) {
        const int64_t at = m.row_begin[h * (m.n_rows + 1) + i];
        if (at < last) fail(TN_E_ARGUMENT, "the rows of a block map begin at falling places");
        for (int64_t n = last; i > 0 && n < at; ++n)
          if (m.column[n] < 0 || m.column[n] >= m.n_columns || (n > last && m.column[n] <= m.column[n - 1]))
            fail(TN_E_ARGUMENT, "query tile " + std::to_string(i - 1) + " of a block map must name key tiles below " +
                                    std::to_string(m.n_columns) + " in rising order");
        last = at;
      }
    return m;
  }
  const tn_block_map& map_;
};

}  // namespace tenon::sdk::flash
