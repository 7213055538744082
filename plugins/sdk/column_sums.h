// Sums over the rows of each column, in f64 and in an order that the shape alone decides.
#pragma once

#include "sdk/for_each.h"

namespace tenon::sdk {

#if TN_GPU
namespace gpu {

// 32 columns a block, rows in turns by its lanes: with a thread a column most of a card would rest.
template <class F, class Put>
struct ColumnSums {
  static constexpr int kThreads = 1024, kColumns = 32, kLanes = kThreads / kColumns;
  static constexpr int64_t kShared = int64_t{kThreads} * static_cast<int64_t>(sizeof(double));
  int64_t rows, n;
  F f;
  Put put;
  TN_FN void operator()(const Block& block) const {
    double* const part = block.shared<double>();
    const int t = thread(), lane = t / kColumns;
    const int64_t j = block.index * kColumns + t % kColumns;
    double sum = 0;
    for (int64_t r = lane; j < n && r < rows; r += kLanes) sum += f(r, j);
    part[t] = sum;
    barrier();
    if (lane == 0 && j < n) {
      for (int k = 1; k < kLanes; ++k) sum += part[k * kColumns + t];
      put(j, sum);
    }
    barrier();
  }
};

}  // namespace gpu
#endif

// put(j, Σ_i f(i, j)) for every column j of n; f answers a float or a double.
template <class F, class Put>
void column_sums(const tn_exec* exec, int64_t rows, int64_t n, F f, Put put) {
#if TN_GPU
  using Kernel = gpu::ColumnSums<F, Put>;
  gpu::launch_blocks(exec, (n + Kernel::kColumns - 1) / Kernel::kColumns, Kernel::kThreads, gpu::kReduceBytes + Kernel::kShared, Kernel{rows, n, f, put});
#else
  constexpr int64_t kColumns = 64;
  for_each_block<kColumns * static_cast<int64_t>(sizeof(double))>(
      exec, (n + kColumns - 1) / kColumns,
      [=](const Block& block) {
        const int64_t first = block.index * kColumns, columns = n - first < kColumns ? n - first : kColumns;
        double* const sum = block.shared<double>();
        block.each(columns, [=](int64_t j) { sum[j] = 0; });
        for (int64_t i = 0; i < rows; ++i) block.each(columns, [=](int64_t j) { sum[j] += f(i, first + j); });
        block.each(columns, [=](int64_t j) { put(first + j, sum[j]); });
      },
      rows * kColumns);
#endif
}

}  // namespace tenon::sdk
