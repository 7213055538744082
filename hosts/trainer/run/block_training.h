// Weights that are trained before they are coded, one block of the model at a time (org.tenon.trainable/1).
#pragma once

#include <memory>

#include "hosts/trainer/model/block.h"
#include "hosts/trainer/optim/optimizers.h"

namespace tenon::trainer {

// A fresh instance of the optimizer that the quantizer names; destroyed with the last reference.
using OpenOptimizer = std::function<std::shared_ptr<OptimizerMember>()>;

class BlockTraining {
 public:
  BlockTraining(Engine& engine, const Quantizer& quantizer, OpenOptimizer open, std::function<Tensor(const Linear&)> dense, uint64_t seed);

  // As BlockCoder::train.
  void run(TransformerBlock& block, const Pass& pass, std::vector<Tensor>& plain, std::vector<Tensor>& coded);

 private:
  struct Trained;
  double loss(TransformerBlock& block, const Pass& pass, const Tensor& x, const Tensor& target);
  void step(TransformerBlock& block, const Pass& pass, std::vector<Trained>& trained, const std::vector<Tensor>& plain, const std::vector<Tensor>& coded,
            size_t begin, size_t end);

  Engine& engine_;
  const Quantizer& quantizer_;
  OpenOptimizer open_;
  std::function<Tensor(const Linear&)> dense_;
  uint64_t seed_;
};

}  // namespace tenon::trainer
