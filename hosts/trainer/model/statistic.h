// What calibration gathers of the inputs of linears (TN_STATISTIC_*).
#pragma once

#include <vector>

#include "hosts/trainer/engine/engine.h"

namespace tenon::trainer {

class InputStatistic {
 public:
  // kind: TN_STATISTIC_*; n: inputs. Throws Error for a kind that is not known.
  InputStatistic(Engine& engine, uint32_t kind, int64_t n);
  // x[T, n]: the inputs over one sequence.
  void add(Engine& engine, const Tensor& x);
  // The statistic as the ABI describes it, and the tokens it stands for.
  const Tensor& finish(Engine& engine);
  int64_t tokens() const { return tokens_; }

 private:
  uint32_t kind_;
  int64_t n_, tokens_ = 0, sequences_ = 0;
  Tensor value_;
  std::vector<double> sums_;
};

}  // namespace tenon::trainer
