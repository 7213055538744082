// Lists of tensors as the ABI takes them.
#pragma once

#include <vector>

#include "hosts/trainer/engine/tensor.h"

namespace tenon::trainer {

// tn_tensor views of a list of tensors, alive as long as this; null in the place of a tensor that is none.
class Views {
 public:
  explicit Views(const std::vector<Tensor>& tensors) {
    for (const Tensor& t : tensors) refs_.push_back(t.ref());
    for (size_t i = 0; i < tensors.size(); ++i) pointers_.push_back(tensors[i] ? &refs_[i].t : nullptr);
  }
  Views(const Views&) = delete;
  tn_tensor* const* data() const { return pointers_.data(); }

 private:
  std::vector<Tensor::Ref> refs_;
  std::vector<tn_tensor*> pointers_;
};

}  // namespace tenon::trainer
