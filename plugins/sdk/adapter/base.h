// What methods ask of the frozen weight beyond its products. All of it is read_rows, piece by piece through the workspace, so that it works
// over any storage; none of it is fast enough for every step, nor needs to be.
#pragma once

#include <cmath>

#include "sdk/adapter/rows.h"
#include "sdk/column_sums.h"
#include "sdk/workspace.h"
#include "tenon/adapter.h"

namespace tenon::sdk {

// use(first row, rows as an f32 matrix) over the whole weight. exec's workspace holds four rows at least, as in init_param; its first
// `reserved` bytes are the caller's.
template <class Use>
void for_each_rows(const tn_exec* exec, const tn_base_linear& base, Use&& use, uint64_t reserved = 0) {
  if (!base.read_rows) fail(TN_E_UNSUPPORTED, "this method reads the weight, which an adapter holds or which is not there");
  const int64_t step = std::max<int64_t>(1, static_cast<int64_t>((exec->workspace_bytes - reserved) / (static_cast<uint64_t>(base.n) * 4)));
  Workspace workspace(*exec);
  (void)workspace.take<uint8_t>(static_cast<int64_t>(reserved));
  const int64_t most = std::min(step, base.m);
  float* memory = workspace.take<float>(most * base.n);
  for (int64_t begin = 0; begin < base.m; begin += most) {
    const int64_t end = std::min(begin + most, base.m);
    const Matrix rows = Matrix::dense(memory, end - begin, base.n);
    MatrixView view(rows);
    check(base.read_rows(base.self, begin, end, &view.tensor));
    use(begin, rows);
  }
}

// out[m] = Σ_n W².
inline void row_sqnorm(const tn_exec* exec, const tn_base_linear& base, float* out) {
  for_each_rows(exec, base, [&](int64_t begin, const Matrix& w) {
    const float* from = static_cast<const float*>(w.data);
    const int64_t n = w.columns;
    for_each_block(exec, w.rows, [=] TN_KERNEL(const Block& b) {
      const float* row = from + b.index * n;
      out[begin + b.index] = static_cast<float>(b.sum(n, [=](int64_t j) { return static_cast<double>(row[j]) * row[j]; }));
    }, n);
  });
}

// out[n] = Σ_m W². out may be the first `reserved` bytes of the workspace.
inline void column_sqnorm(const tn_exec* exec, const tn_base_linear& base, float* out, uint64_t reserved = 0) {
  for_each(exec, base.n, [=] TN_KERNEL(int64_t j) { out[j] = 0; });
  for_each_rows(exec, base, [&](int64_t, const Matrix& w) {
    const float* from = static_cast<const float*>(w.data);
    const int64_t n = w.columns;
    column_sums(
        exec, w.rows, n, [=] TN_KERNEL(int64_t i, int64_t j) { return static_cast<double>(from[i * n + j]) * from[i * n + j]; },
        [=] TN_KERNEL(int64_t j, double sum) { out[j] += static_cast<float>(sum); });
  }, reserved);
}

// row[m] = Σ_n |W|, column[n] = Σ_m |W|; either may be null.
inline void sums_of_magnitudes(const tn_exec* exec, const tn_base_linear& base, float* row, float* column, uint64_t reserved) {
  if (column) for_each(exec, base.n, [=] TN_KERNEL(int64_t j) { column[j] = 0; });
  for_each_rows(exec, base, [&](int64_t begin, const Matrix& w) {
    const float* from = static_cast<const float*>(w.data);
    const int64_t n = w.columns, rows = w.rows;
    if (row)
      for_each_block(exec, rows, [=] TN_KERNEL(const Block& b) {
        const float* line = from + b.index * n;
        row[begin + b.index] = static_cast<float>(b.sum(n, [=](int64_t j) { return std::fabs(static_cast<double>(line[j])); }));
      }, n);
    if (column)
      column_sums(
          exec, rows, n, [=] TN_KERNEL(int64_t i, int64_t j) { return std::fabs(from[i * n + j]); },
          [=] TN_KERNEL(int64_t j, double sum) { column[j] += static_cast<float>(sum); });
  }, reserved);
}

// out[m, k] = W[:, index].
inline void read_columns(const tn_exec* exec, const tn_base_linear& base, const int32_t* index, const Matrix& out) {
  for_each_rows(exec, base, [&](int64_t begin, const Matrix& w) { gather_columns(exec, w, index, out.row_block(begin, w.rows)); });
}

}  // namespace tenon::sdk
