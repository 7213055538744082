// Between a weight and its problem, and from a solved problem to components.
#pragma once

#include "quantizers/gptq/codec.h"
#include "quantizers/gptq/solve.h"
#include "sdk/floats.h"

namespace tenon::gptq {

inline Problem problem(const Sizes& s, const Options& o, const Scratch& scratch) {
  Problem p;
  p.m = s.m, p.n = s.n, p.group = s.group, p.grid = o.grid;
  p.w = scratch.w, p.codes = scratch.codes, p.grids = scratch.grids;
  return p;
}

inline void store(const tn_exec* exec, const Sizes& s, const Problem& p, const Parts& parts) {
  const sdk::GroupedSizes sizes = s;
  sdk::for_each_block(
      exec, s.m,
      [=] TN_KERNEL(const sdk::Block& block) {
        const int64_t row = block.index;
        const uint8_t* const codes = p.codes + row * sizes.n;
        const Grid* const grids = p.grids + row * sizes.groups;
        const Parts to = parts;
        sdk::pack_row(block, sizes.n, sizes.bits, to.codes + row * sizes.code_row, [=](int64_t i) { return codes[i]; });
        sdk::pack_row(block, sizes.groups, sizes.bits, to.zeros + row * sizes.zero_row, [=](int64_t g) { return static_cast<uint8_t>(grids[g].zero); });
        const int64_t first = row * sizes.groups;
        block.each(sizes.groups, [=](int64_t g) { to.put_scale(first + g, grids[g].stored); });
      },
      s.n);
  if (!parts.g_idx) return;
  int32_t* const index = parts.g_idx;
  sdk::for_each(exec, s.n, [=] TN_KERNEL(int64_t i) { index[p.input(i)] = static_cast<int32_t>(i / p.group); });
}

}  // namespace tenon::gptq
