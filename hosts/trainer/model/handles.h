// Tensors that the host lends to a plugin by handle: the pointers of the ABI, each with what keeps its memory.
#pragma once

#include <iterator>
#include <list>
#include <map>

#include "hosts/trainer/engine/tensor.h"

namespace tenon::trainer {

class TensorHandles {
 public:
  tn_tensor* hold(const Tensor& t) {
    held_.push_back({t, {}});
    const auto last = std::prev(held_.end());
    last->ref = last->tensor.ref();  // points to the shape of the tensor that stays here
    by_handle_[&last->ref.t] = last;
    return &last->ref.t;
  }
  // A handle keeps its memory alive in what is made of it; a view that the plugin made of one is borrowed.
  Tensor at(const tn_tensor* t) const {
    const auto found = by_handle_.find(t);
    return found == by_handle_.end() ? Tensor::borrowed(*t) : found->second->tensor;
  }
  void free(tn_tensor* t) {
    const auto found = by_handle_.find(t);
    if (found == by_handle_.end()) return;
    held_.erase(found->second), by_handle_.erase(found);
  }

 private:
  struct Held {
    Tensor tensor;
    Tensor::Ref ref;
  };
  std::map<const tn_tensor*, std::list<Held>::iterator> by_handle_;
  std::list<Held> held_;
};

}  // namespace tenon::trainer
