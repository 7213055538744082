// Which windows make which batch: a pure function of the step, so that a resumed run needs no state of the data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tenon::trainer {

// A permutation of 0 … n-1 by Fisher-Yates over a counter-based generator: the same on every machine for one (seed,
// stream).
std::vector<uint64_t> permutation(size_t n, uint64_t seed, uint64_t stream);

enum class Order { kSequential, kShuffled };

class BatchOrder {
 public:
  // `windows` of the dataset, `rows` per micro-batch, `accumulate` micro-batches per step. Throws Error, naming
  // `source`, when not one micro-batch is full. The remainder of an epoch that fills no batch is left out.
  BatchOrder(size_t windows, int64_t rows, int64_t accumulate, Order order, uint64_t seed, const std::string& source);

  // Windows of micro-batch `micro` (from 0) of step `step` (from 0). The epochs follow each other without a gap, each
  // shuffled anew by (seed, epoch). Not thread-safe: the order of the last epoch asked for is kept.
  std::vector<uint64_t> windows_of(int64_t step, int64_t micro);
  int64_t epoch_of(int64_t step) const { return step * accumulate_ / batches_; }
  int64_t batches_per_epoch() const { return batches_; }

 private:
  size_t windows_;
  int64_t rows_, accumulate_, batches_;
  Order order_;
  uint64_t seed_;
  int64_t epoch_ = -1;
  std::vector<uint64_t> permutation_;
};

}  // namespace tenon::trainer
