// An optimizer state that waits between updates in the form of a quantizer (TN_SITE_OPTIMIZER_STATE).
#pragma once

#include <string>
#include <vector>

#include "hosts/trainer/model/parameter.h"
#include "hosts/trainer/model/quantized.h"
#include "tenon/optimizer.h"

namespace tenon::trainer {

// The state is coded in panels of consecutive elements, each a target of its own, so that an update needs no more than a panel of it in
// f32 at a time; a component of all panels is one tensor.
class CodedState {
 public:
  // A slot of f32 values of this parameter, coded as zeros. Components go to names and tensors under "slot.component".
  CodedState(Engine& engine, const SiteCodec& codec, const Parameter& parameter, const tn_state_slot& slot, std::vector<Tensor>& tensors,
             std::vector<std::string>& names);

  static bool takes(const Parameter& parameter, const tn_state_slot& slot);

  int64_t count() const { return count_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  int64_t panels() const { return static_cast<int64_t>(begin_.size()) - 1; }
  int64_t begin(int64_t panel) const { return begin_[static_cast<size_t>(panel)]; }  // begin(panels()) = count()
  int64_t longest() const;                                                          // elements of a panel

  // f32 [elements of panels first … last − 1] from the components, and back. `draw` names the random numbers of this coding.
  void decode(Engine& engine, int64_t first, int64_t last, const Tensor& to) const;
  void encode(Engine& engine, int64_t first, int64_t last, const Tensor& from, const tn_rng& draw) const;

 private:
  tn_target target(int64_t panel) const;
  std::vector<Tensor> components(int64_t panel) const;

  SiteCodec codec_;
  std::string name_;
  uint32_t role_, uid_;
  int32_t block_;
  int64_t count_ = 1;
  std::vector<int64_t> shape_, begin_;
  struct Part {  // one component of one panel
    size_t tensor;
    int64_t offset, count;
    int64_t shape[4];
    int32_t ndim;
  };
  std::vector<std::vector<Part>> parts_;  // by panel
  std::vector<Tensor> tensors_;           // a component of all panels
};

}  // namespace tenon::trainer
