// What the blocks of a pass keep between forward and backward: the one place where saved activations are put away and brought back.
#pragma once

#include <vector>

#include "hosts/trainer/model/block.h"
#include "hosts/trainer/schedule/activations.h"

namespace tenon::trainer {

class SavedBlocks {
 public:
  // stage: or null, tensors stay where they are. keep_last: that many blocks at the end are never put away. Both for one pass.
  SavedBlocks(size_t blocks, ActivationStage* stage, int64_t keep_last) : saved_(blocks), stowed_(blocks), stage_(stage), keep_last_(keep_last) {}

  SavedBlock& at(size_t block) { return saved_[block]; }
  // After the block's forward: large tensors go on their way.
  void stow(size_t block, const Pass& pass);
  // Before the block's backward: they are back, and those of `next`, whose backward follows, are on their way. next = block: none.
  SavedBlock& fetch(size_t block, size_t next);

 private:
  struct Item {
    Tensor SavedBlock::*member;
    std::unique_ptr<Stowed> stowed;
  };
  std::vector<SavedBlock> saved_;
  std::vector<std::vector<Item>> stowed_;
  ActivationStage* stage_;
  int64_t keep_last_;
};

}  // namespace tenon::trainer
