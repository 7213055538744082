// GPTQ (Frantar et al. 2022): codes the columns of a weight in order and moves what each column loses onto the columns that follow, along
// U, the upper factor of the inverse Hessian.
#pragma once

#include "quantizers/gptq/grid.h"
#include "sdk/for_each.h"
#include "sdk/linalg/matrix.h"

namespace tenon::gptq {

// Weights and codes in the order in which the columns are coded.
struct Problem {
  int64_t m = 0, n = 0, group = 0, block = 128;  // group: inputs that share a grid
  GridOptions grid;
  float* w = nullptr;            // [m, n]; ends as the decoded weights
  const float* u = nullptr;      // [n, n] upper; null: round to nearest
  float* error = nullptr;        // [m, block] scratch; unused without u
  uint8_t* codes = nullptr;      // [m, n], one byte a code
  Grid* grids = nullptr;         // [m, groups]
  const int32_t* fixed = nullptr;  // per column: its group, whose grid is given; null: groups follow the columns and are found on the way
  int64_t groups() const { return (n + group - 1) / group; }
};

// Columns [a, b) of one row. Within the block every later column is compensated at once; those behind it wait for the block's product.
inline void solve_row(const Problem& p, int64_t row, int64_t a, int64_t b) {
  const float top = static_cast<float>((1 << p.grid.bits) - 1);
  float* w = p.w + row * p.n;
  Grid* grids = p.grids + row * p.groups();
  for (int64_t i = a; i < b; ++i) {
    const int64_t g = p.fixed ? p.fixed[i] : i / p.group;
    // From the columns as they are now, compensated by all before them.
    if (!p.fixed && i % p.group == 0) grids[g] = find_grid(w + i, std::min(p.group, p.n - i), p.grid);
    const Grid& grid = grids[g];
    const float code = grid.code(w[i], top), q = grid.value(code);
    p.codes[row * p.n + i] = static_cast<uint8_t>(code);
    if (p.u) {
      const float* u = p.u + i * p.n;
      const float e = (w[i] - q) / u[i];
      for (int64_t j = i + 1; j < b; ++j) w[j] -= e * u[j];
      p.error[row * (b - a) + i - a] = e;
    }
    w[i] = q;
  }
}

// A block's errors move on to the columns behind it, so many at a time: few shapes are few plans of the device.
inline constexpr int64_t kStrip = 512;

inline uint64_t solve_products(const sdk::Products& products, const Problem& p) {
  uint64_t bytes = 0;
  // Strips end where the matrix ends, so that every width may come up once: those of whole blocks before the end.
  for (int64_t b = p.block; b < p.n; b += p.block) {
    const int64_t strip = std::min(kStrip, (p.n - b) % kStrip == 0 ? kStrip : (p.n - b) % kStrip);
    for (int64_t w : {strip, std::min(kStrip, p.n - b)})
      bytes = std::max(bytes, products.measure(sdk::Matrix::dense(nullptr, p.m, p.block), {nullptr, sdk::kF32, p.block, w, p.n, 1},
                                               {nullptr, sdk::kF32, p.m, w, p.n, 1}, -1, 1));
  }
  return bytes;
}

inline void solve(const tn_exec* exec, const Problem& p, const sdk::Products* multiply) {
  for (int64_t a = 0; a < p.n; a += p.block) {
    const int64_t b = std::min(a + p.block, p.n);
    sdk::for_each_block(exec, p.m, [=](const sdk::Block& row) { solve_row(p, row.index, a, b); });
    if (!p.u) continue;
    for (int64_t c = b; c < p.n; c += kStrip) {
      const int64_t w = std::min(kStrip, p.n - c);
      (*multiply)(-1, sdk::Matrix::dense(p.error, p.m, b - a), {const_cast<float*>(p.u) + a * p.n + c, sdk::kF32, b - a, w, p.n, 1}, 1,
                  {p.w + c, sdk::kF32, p.m, w, p.n, 1});
    }
  }
}

}  // namespace tenon::gptq
