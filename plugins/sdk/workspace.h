// A call's workspace, handed out piece by piece. Without memory it only measures: estimate() and apply() run the same
// layout code, so the bytes asked for are the bytes used.
#pragma once

#include <algorithm>

#include "sdk/base.h"
#include "tenon/host.h"

namespace tenon::sdk {

class Workspace {
 public:
  Workspace() = default;  // measures
  explicit Workspace(const tn_exec& exec) : base_(static_cast<char*>(exec.workspace)), size_(exec.workspace_bytes) {}

  // n values of T, aligned to TN_ALIGNMENT.
  template <class T = float>
  T* take(int64_t n) {
    const uint64_t at = used_;
    used_ += (static_cast<uint64_t>(n) * sizeof(T) + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT;
    peak_ = std::max(peak_, used_);
    if (base_ && used_ > size_)
      fail(TN_E_MEMORY, "the workspace holds " + std::to_string(size_) + " bytes and " + std::to_string(used_) +
                            " are needed; pass what estimate() says");
    return base_ ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }
  uint64_t mark() const { return used_; }
  void release(uint64_t mark) { used_ = mark; }  // what was taken since may be taken again
  uint64_t peak() const { return peak_; }

  // All that lies behind offset `at`: the workspace of products.
  void* behind(uint64_t at) const { return base_ + at; }
  uint64_t bytes_behind(uint64_t at) const { return size_ > at ? size_ - at : 0; }

 private:
  char* base_ = nullptr;
  uint64_t size_ = 0, used_ = 0, peak_ = 0;
};

}  // namespace tenon::sdk
