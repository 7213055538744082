// Carves the call's workspace. Without memory it only counts, so a plan and its call share one description of the
// layout.
#pragma once

#include <cstdint>

#include "tenon/tensor.h"

namespace tenon::flash {

class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <class T = float>
  T* take(int64_t n) {
    T* p = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += (static_cast<uint64_t>(n) * sizeof(T) + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT;
    return p;
  }
  uint64_t used() const { return used_; }

 private:
  char* memory_ = nullptr;
  uint64_t used_ = 0;
};

}  // namespace tenon::flash
