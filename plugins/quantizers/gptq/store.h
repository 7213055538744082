// From a solved problem to components, and what both ways of encoding share.
#pragma once

#include <cstring>

#include "quantizers/gptq/codec.h"

namespace tenon::gptq {

// Scratch of one weight: its f32 copy, a byte a code, the grids.
struct Scratch {
  float* w;
  uint8_t* codes;
  Grid* grids;
  Scratch(sdk::Workspace& space, const Sizes& s)
      : w(space.take<float>(s.m * s.n)), codes(space.take<uint8_t>(s.m * s.n)), grids(space.take<Grid>(s.m * s.groups)) {}
};

inline Problem problem(const Sizes& s, const Options& o, const Scratch& scratch) {
  Problem p;
  p.m = s.m, p.n = s.n, p.group = s.group, p.grid = o.grid;
  p.w = scratch.w, p.codes = scratch.codes, p.grids = scratch.grids;
  return p;
}

// order[i]: the input that column i of the problem is; null: itself.
inline void store(const tn_exec* exec, const Sizes& s, const Options& o, const Problem& p, const int32_t* order, const Parts& parts) {
  const int bits = o.grid.bits;
  sdk::for_each_block(exec, s.m, [=](const sdk::Block& block) {
    const int64_t row = block.index;
    uint8_t* codes = parts.codes + row * s.code_row;
    uint8_t* zeros = parts.zeros + row * s.zero_row;
    std::memset(codes, 0, static_cast<size_t>(s.code_row));
    std::memset(zeros, 0, static_cast<size_t>(s.zero_row));
    for (int64_t i = 0; i < s.n; ++i) sdk::put_code(codes, order ? order[i] : i, bits, p.codes[row * s.n + i]);
    for (int64_t g = 0; g < s.groups; ++g) {
      const Grid& grid = p.grids[row * s.groups + g];
      parts.scales[row * s.groups + g] = grid.stored;
      sdk::put_code(zeros, g, bits, static_cast<uint32_t>(grid.zero));
    }
  });
  if (parts.g_idx)
    for (int64_t i = 0; i < s.n; ++i) parts.g_idx[order ? order[i] : i] = static_cast<int32_t>(i / s.group);
}

}  // namespace tenon::gptq
