// Lists of tensors as the ABI takes them.
#pragma once

#include <utility>
#include <vector>

#include "hosts/trainer/engine/tensor.h"

namespace tenon::trainer {

// tn_tensor views of a list of tensors, alive as long as this; null in the place of a tensor that is none. A view points to the shape in its
// Tensor, so the list is kept here: the caller's may be a temporary.
class Views {
 public:
  explicit Views(std::vector<Tensor> tensors) : tensors_(std::move(tensors)) {
    refs_.reserve(tensors_.size()), pointers_.reserve(tensors_.size());
    for (const Tensor& t : tensors_) refs_.push_back(t.ref());
    for (size_t i = 0; i < tensors_.size(); ++i) pointers_.push_back(tensors_[i] ? &refs_[i].t : nullptr);
  }
  Views(const Views&) = delete;
  tn_tensor* const* data() const { return pointers_.data(); }

 private:
  std::vector<Tensor> tensors_;
  std::vector<Tensor::Ref> refs_;
  std::vector<tn_tensor*> pointers_;
};

}  // namespace tenon::trainer
