// The way of a tensor from forward to backward: left on the device, coded, moved to host memory, to a file. Stages chain: each hands what it
// makes of a tensor to the next.
#pragma once

#include <memory>

#include "hosts/trainer/engine/engine.h"

namespace tenon::trainer {

// Which tensor of a pass this is.
struct SavedTag {
  int32_t block = -1;
  const char* name = "";   // "x" (a block's input), "q", "k", "v", "o", "middle", "gate", "up" …; of a coded tensor the codec's component
  int64_t micro_batch = 0, step = 0;
};

// A tensor that was put away. To destroy it is to forget it.
class Stowed {
 public:
  virtual ~Stowed() = default;
  // Its backward is next but one: begin to bring it back.
  virtual void prefetch() {}
  // The tensor, in memory of the device; called once.
  virtual Tensor restore() = 0;
};

// Makes the same allocations on a dry engine, where it moves nothing.
class ActivationStage {
 public:
  virtual ~ActivationStage() = default;
  // Takes a contiguous tensor, which nobody writes any more. Its memory is free as soon as the last holder lets go.
  virtual std::unique_ptr<Stowed> stow(const SavedTag& tag, Tensor tensor) = 0;
  // The most that it and those after it held outside of the device's memory.
  virtual uint64_t peak_bytes() const { return 0; }
};

}  // namespace tenon::trainer
