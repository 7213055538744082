// One pass of an adapter that runs the stack of blocks itself (org.tenon.region/1).
#pragma once

#include <map>

#include "hosts/trainer/model/block.h"
#include "hosts/trainer/model/handles.h"
#include "tenon/region.h"

namespace tenon::trainer {

// What a region's operators work on.
struct RegionStack {
  Adapter* adapter = nullptr;
  std::vector<TransformerBlock*> blocks;  // the model's, then the adapter's own
  Parameter* final_norm = nullptr;
  double norm_eps = 0;
  int64_t hidden = 0;
  // Decoding: what attention remembers, by block, and how many rows that is.
  std::vector<DecodeState>* states = nullptr;
  int64_t cached = 0;
};

class RegionPass {
 public:
  RegionPass(Engine& engine, const RegionStack& stack, const Pass& pass, uint32_t flags);
  RegionPass(const RegionPass&) = delete;

  // What the head reads.
  Tensor forward(const Tensor& x);
  // Gradient of the embedding's output, where it is wanted. ready: told of what trains inside the blocks; the adapter's own follow.
  Tensor backward(const Tensor& dy, bool want_dx, const GradientReady& ready);

 private:
  struct Table;
  struct Kept {
    const TransformerBlock* block;
    uint32_t part;
    SavedBlock saved;
  };
  tn_tensor* hold(const Tensor& t) { return handles_.hold(t); }
  Tensor at(const tn_tensor* t) const { return handles_.at(t); }
  Tensor decode(const TransformerBlock& b, uint32_t block, uint32_t part, const Tensor& x);
  void run(bool gradients, const std::function<int32_t(const tn_region_ops*)>& call);

  Engine& engine_;
  const RegionStack& stack_;
  Pass pass_;
  uint32_t flags_;
  TensorHandles handles_;
  std::map<uint64_t, Kept> kept_;
  uint64_t next_ = 1;
  const GradientReady* ready_ = nullptr;
};

}  // namespace tenon::trainer
