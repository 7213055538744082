// Sums over the rows of each column: a thread a column would leave most of a card idle. In one order, whatever the card.
#pragma once

#include "sdk/gpu/for_each.h"

namespace tenon::sdk::gpu {

template <class F, class Put>
struct ColumnSums {
  static constexpr int kThreads = 256, kColumns = 32, kLanes = kThreads / kColumns;
  static constexpr int64_t kShared = int64_t{kThreads} * static_cast<int64_t>(sizeof(double));
  int64_t rows, n;
  F f;      // f(row, column) in f64
  Put put;  // put(column, sum)
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
template <class F, class Put>
void column_sums(const tn_exec* exec, int64_t rows, int64_t n, F f, Put put) {
  using Kernel = ColumnSums<F, Put>;
  launch_blocks(exec, (n + Kernel::kColumns - 1) / Kernel::kColumns, Kernel::kThreads, kReduceBytes + Kernel::kShared, Kernel{rows, n, f, put});
}

}  // namespace tenon::sdk::gpu
