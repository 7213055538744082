// From weights and grids to components.
#pragma once

#include "quantizers/efficientqat/codec.h"
#include "quantizers/efficientqat/grid.h"

namespace tenon::efficientqat {

// Codes row `row`, w[0, n), with grid_of(group).
template <class GridOf>
void store_row(const Sizes& s, const Parts& parts, int64_t row, const float* w, GridOf grid_of) {
  uint8_t* codes = parts.codes + row * s.code_row;
  uint8_t* zeros = parts.zeros + row * s.zero_row;
  std::memset(codes, 0, static_cast<size_t>(s.code_row));
  std::memset(zeros, 0, static_cast<size_t>(s.zero_row));
  for (int64_t g = 0; g < s.groups; ++g) {
    const Grid grid = grid_of(g);
    const int64_t end = std::min(s.n, (g + 1) * s.group);
    for (int64_t j = g * s.group; j < end; ++j) sdk::put_code(codes, j, s.bits, static_cast<uint32_t>(grid.code(w[j])));
    sdk::put_code(zeros, g, s.bits, static_cast<uint32_t>(grid.zero));
    const sdk::f16 scale = sdk::from_float<sdk::f16>(grid.scale);
    if (parts.wide)
      parts.wide[row * s.groups + g] = sdk::to_float(scale);
    else
      parts.scales[row * s.groups + g] = scale;
  }
}

}  // namespace tenon::efficientqat
