// An optimizer over a few parameters, driven as a host drives it, with every buffer fenced.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hosts/conformance/numbers.h"
#include "hosts/conformance/subject.h"
#include "tenon/drive.h"
#include "tenon/loss.h"
#include "tenon/observe.h"
#include "tenon/runs.h"

namespace tenon::conformance {

struct ParameterForm {
  std::vector<int64_t> shape;
  uint32_t role = TN_ROLE_OTHER;
  tn_dtype dtype{TN_FLOAT, 32, 1};
  bool master = false;
};

struct OptimizerStep {
  enum class Order { kTogether, kReversed, kOneByOne, kInRuns };
  double lr = 1e-2, decay_scale = 1, grad_scale = 1;
  Order order = Order::kTogether;
  uint32_t flags = 0;  // TN_ITEM_*
  uint8_t poison = 0xFF;
  tn_dtype grad_dtype{TN_FLOAT, 32, 1};
  std::function<std::vector<float>(size_t parameter, int64_t t)> gradient;  // default: normals keyed by both
};

class OptimizerRun {
 public:
  // Throws NotApplicable where the plugin refuses these parameters in words. longer: structs as a newer host passes
  // them.
  OptimizerRun(Subject& subject, const Spec& spec, const std::vector<ParameterForm>& forms, bool longer = false);
  ~OptimizerRun();

  // plan, prepare, apply and finish of one step; fences are checked after every call. An optimizer that drives the step (org.tenon.drive/1)
  // is asked in between to descend a loss that is linear in the parameters, with the step's gradient.
  void step(const OptimizerStep& options = {});

  // Every byte that a checkpoint holds.
  std::vector<std::vector<uint8_t>> bits() const;
  // Takes over what a checkpoint of `other`, a run of the same parameters, holds.
  void resume_from(OptimizerRun& other);
  // Moves every tensor elsewhere; the old memory becomes NaN that nobody may touch.
  void relocate();

  bool frozen(size_t i) const { return bound_[i].planned & TN_PLAN_FREEZE; }
  Tensor& weight(size_t i) { return *bound_[i].param; }
  size_t size() const { return bound_.size(); }
  uint64_t state_bytes(size_t i) const;
  const tn_estimate& estimate(size_t i) const { return bound_[i].estimate; }
  const std::vector<ParameterForm>& forms() const { return forms_; }
  const tn_optimizer_api& api() const { return api_; }
  bool drives() const { return drive_ != nullptr; }

 private:
  struct Slot {
    std::string name;
    std::unique_ptr<Tensor> tensor;
  };
  struct Bound {
    Longer<tn_param> info;
    std::unique_ptr<Tensor> param, master;
    std::vector<Slot> slots;
    tn_estimate estimate{};
    uint32_t planned = 0;  // TN_PLAN_*
  };
  struct Collector;

  void add(size_t i, bool longer);
  void declare_states(Bound& b);
  void load_from(OptimizerRun& other);
  void apply(const std::vector<size_t>& which, const OptimizerStep& options);
  void apply_runs(size_t i, const OptimizerStep& options);
  std::vector<float> gradient(size_t i, const OptimizerStep& options);
  void observe(size_t i, const tn_exec* exec, const tn_item& item);
  bool drive(const tn_step& step, const std::vector<size_t>& which, const OptimizerStep& options);
  double probe(const tn_displacement& at, const std::vector<size_t>& which, const std::vector<std::vector<float>>& gradients, uint8_t poison);
  std::vector<Tensor*> tensors();

  Subject& subject_;
  Bench& bench_;
  const tn_optimizer_api& api_;
  const tn_drive* drive_;
  const tn_observe* observe_;
  const tn_runs* runs_;
  const tn_loss* loss_;
  std::vector<ParameterForm> forms_;
  bool longer_;
  std::unique_ptr<Instance<tn_optimizer_api, tn_optimizer>> instance_;
  std::vector<std::unique_ptr<Tensor>> abandoned_;
  std::vector<Bound> bound_;
  int64_t t_ = 0;
};

}  // namespace tenon::conformance
