// GPTQ (Frantar et al. 2022): codes the columns of a weight in order and moves what each column loses onto the columns that follow, along
// U, the upper factor of the inverse Hessian.
#pragma once

#include "quantizers/gptq/grid.h"
#include "sdk/for_each.h"
#include "sdk/linalg/matrix.h"

namespace tenon::gptq {

// Weights in the order in which their columns are coded.
struct Problem {
  int64_t m = 0, n = 0, group = 0, block = 128;  // group: inputs that share a grid
  GridOptions grid;
  float* w = nullptr;            // [m, n]; ends as the decoded weights
  const float* u = nullptr;      // [n, n] upper; null: round to nearest
  float* error = nullptr;        // [m, block] scratch; unused without u
  uint8_t* codes = nullptr;      // [m, n], one byte a code, in the order of the inputs
  Grid* grids = nullptr;         // [m, groups]
  const int32_t* order = nullptr;  // [n], per column: its input; null: the inputs in their own order
  bool fixed = false;              // groups are neighbouring inputs and their grids are given; otherwise they follow the columns and are found on the way
  TN_FN int64_t groups() const { return (n + group - 1) / group; }
  TN_FN int64_t input(int64_t column) const { return order ? order[column] : column; }
  TN_FN int64_t group_of(int64_t column) const { return (fixed ? input(column) : column) / group; }
};

// Columns [a, b) of one row. Within the block every later column is compensated at once; those behind it wait for the block's product.
TN_FN void solve_row(const sdk::Block& block, const Problem& p, int64_t a, int64_t b) {
  const int64_t row = block.index;
  const float top = static_cast<float>((1 << p.grid.bits) - 1);
  float* const w = p.w + row * p.n;
  Grid* const grids = p.grids + row * p.groups();
  // A column keeps the weight that it is coded from until the whole block is done, so that every thread finds the same error.
  for (int64_t i = a; i < b; ++i) {
    if (!p.fixed && i % p.group == 0) {
      // From the columns as they are now, compensated by all before them.
      const Grid found = find_grid(block, w + i, p.group < p.n - i ? p.group : p.n - i, p.grid);
      Grid* const to = grids + i / p.group;
      block.each(1, [=](int64_t) { *to = found; });
    }
    if (!p.u) continue;
    const Grid grid = grids[p.group_of(i)];
    const float* const u = p.u + i * p.n + i;
    float* const rest = w + i;
    const float e = (*rest - grid.value(grid.code(*rest, top))) / *u;
    block.each(b - i - 1, [=](int64_t j) { rest[1 + j] -= e * u[1 + j]; });
  }
  const Problem* const problem = &p;
  float* const error = p.u ? p.error + row * (b - a) : nullptr;
  block.each(b - a, [=](int64_t k) {
    const int64_t i = a + k;
    const Grid grid = grids[problem->group_of(i)];
    const float code = grid.code(w[i], top), q = grid.value(code);
    problem->codes[row * problem->n + problem->input(i)] = static_cast<uint8_t>(code);
    if (error) error[k] = (w[i] - q) / problem->u[i * problem->n + i];
    w[i] = q;
  });
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
    sdk::for_each_block(exec, p.m, [=] TN_KERNEL(const sdk::Block& row) { solve_row(row, p, a, b); }, b - a);
    if (!p.u) continue;
    for (int64_t c = b; c < p.n; c += kStrip) {
      const int64_t w = std::min(kStrip, p.n - c);
      (*multiply)(-1, sdk::Matrix::dense(p.error, p.m, b - a), {const_cast<float*>(p.u) + a * p.n + c, sdk::kF32, b - a, w, p.n, 1}, 1,
                  {p.w + c, sdk::kF32, p.m, w, p.n, 1});
    }
  }
}

}  // namespace tenon::gptq
