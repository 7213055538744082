#include "hosts/trainer/text/data/batch_order.h"

#include <numeric>

#include "core/error.h"
#include "hosts/trainer/random.h"

namespace tenon::trainer {
namespace {

class Draws {
 public:
  Draws(uint64_t seed, uint64_t stream) : key_(split_mix(split_mix(seed + kSplitMixStep) ^ (stream * kSplitMixStep + kSplitMixStep))) {}

  // Uniform in [0, n), without bias (Lemire 2019).
  uint64_t below(uint64_t n) {
    for (;;) {
      const auto wide = static_cast<unsigned __int128>(split_mix(key_ + ++counter_ * kSplitMixStep)) * n;
      if (uint64_t(wide) >= -n % n) return uint64_t(wide >> 64);
    }
  }

 private:
  uint64_t key_, counter_ = 0;
};

}  // namespace

std::vector<uint64_t> permutation(size_t n, uint64_t seed, uint64_t stream) {
  std::vector<uint64_t> order(n);
  std::iota(order.begin(), order.end(), uint64_t{0});
  Draws draws(seed, stream);
  for (size_t i = n; i > 1; --i) std::swap(order[i - 1], order[draws.below(i)]);
  return order;
}

BatchOrder::BatchOrder(size_t windows, int64_t rows, int64_t accumulate, Order order, uint64_t seed,
                       const std::string& source)
    : windows_(windows), rows_(rows), accumulate_(accumulate), order_(order), seed_(seed) {
  if (rows < 1)
    throw Error(TN_E_ARGUMENT, "the batch size (--batch-size) is " + std::to_string(rows) + "; it must be at least 1");
  if (accumulate < 1)
    throw Error(TN_E_ARGUMENT, "the number of micro-batches (--accumulate) is " + std::to_string(accumulate) +
                                   "; it must be at least 1");
  batches_ = int64_t(windows / uint64_t(rows));
  if (batches_ == 0)
    throw Error(TN_E_ARGUMENT, source + ": the data makes " + std::to_string(windows) +
                                   " windows, fewer than one batch of " + std::to_string(rows) +
                                   " (--batch-size); give more text, or a smaller batch or window");
}

std::vector<uint64_t> BatchOrder::windows_of(int64_t step, int64_t micro) {
  const int64_t index = step * accumulate_ + micro, epoch = index / batches_;
  const auto first = uint64_t(index % batches_ * rows_);
  std::vector<uint64_t> picked(static_cast<size_t>(rows_));
  if (order_ == Order::kSequential) {
    std::iota(picked.begin(), picked.end(), first);
    return picked;
  }
  if (epoch != epoch_) {
    permutation_ = permutation(windows_, seed_, uint64_t(epoch));
    epoch_ = epoch;
  }
  for (uint64_t r = 0; r < uint64_t(rows_); ++r) picked[r] = permutation_[first + r];
  return picked;
}

}  // namespace tenon::trainer
