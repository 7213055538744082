// Sums over rows, one per column, in an order that depends on the shape alone. On a CPU rows are cut into at most kMaxSlices
// equal slices, each slice is summed in row order, then the slices in slice order.
#pragma once

#include "devices/ops/view.h"
#include "sdk/column_sums.h"

namespace tenon::ops {

#if TN_GPU
// out[c] += sum over rows of term. Term: row(r) answers a functor of the column.
template <class Term>
void add_column_sums(const tn_exec& exec, int64_t rows, int64_t cols, const Term& term, float* out) {
  sdk::column_sums(
      &exec, rows, cols, [=] TN_KERNEL(int64_t r, int64_t c) { return term.row(r)(c); },
      [=] TN_KERNEL(int64_t c, double sum) { out[c] += static_cast<float>(sum); });
}
#else
inline constexpr int64_t kMaxSlices = 64, kColumnTile = 512;

// Term: row(r) answers a functor of the column. One block per slice and column tile.
template <class Term>
struct SliceSums {
  Term term;
  int64_t rows, cols, slice, tiles;
  float* out;       // [slices, cols], or the result itself where there is one slice
  bool accumulate;  // into the result
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t s = block.index / tiles, begin = (block.index - s * tiles) * kColumnTile;
    const int64_t n = cols - begin < kColumnTile ? cols - begin : kColumnTile;
    const int64_t first = s * slice, last = first + slice < rows ? first + slice : rows;
    float* const sums = block.shared<float>();
    block.each(n, [=](int64_t i) { sums[i] = 0; });
    for (int64_t r = first; r < last; ++r) {
      const auto row = term.row(r);
      block.each(n, [=](int64_t i) { sums[i] += row(begin + i); });
    }
    float* const to = out + s * cols + begin;
    if (accumulate) {
      block.each(n, [=](int64_t i) { to[i] += sums[i]; });
    } else {
      block.each(n, [=](int64_t i) { to[i] = sums[i]; });
    }
  }
};

struct AddSlices {
  const float* partial;
  int64_t slices, cols;
  float* out;
  TN_FN void operator()(int64_t c) const {
    float s = 0;
    for (int64_t i = 0; i < slices; ++i) s += partial[i * cols + c];
    out[c] += s;
  }
};

// out[c] += sum over rows of term. Uses the backend's scratch.
template <class Term>
void add_column_sums(const tn_exec& exec, int64_t rows, int64_t cols, const Term& term, float* out) {
  if (rows == 0 || cols == 0) return;
  int64_t slices = kScratchBytes / static_cast<int64_t>(sizeof(float)) / cols;
  slices = slices > kMaxSlices ? kMaxSlices : slices;
  slices = slices > (rows + 15) / 16 ? (rows + 15) / 16 : slices;  // at least 16 rows each
  const int64_t tiles = (cols + kColumnTile - 1) / kColumnTile;
  constexpr int64_t kShared = kColumnTile * sizeof(float);
  if (slices <= 1) {
    sdk::for_each_block<kShared>(&exec, tiles, SliceSums<Term>{term, rows, cols, rows, tiles, out, true});
    return;
  }
  const int64_t slice = (rows + slices - 1) / slices;
  slices = (rows + slice - 1) / slice;
  float* const partial = static_cast<float*>(exec.workspace);
  sdk::for_each_block<kShared>(&exec, slices * tiles, SliceSums<Term>{term, rows, cols, slice, tiles, partial, false});
  sdk::for_each(&exec, cols, AddSlices{partial, slices, cols, out});
}
#endif

}  // namespace tenon::ops
