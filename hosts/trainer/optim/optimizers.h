// All optimizers of a run: each plugin over the parameters that its clause takes.
#pragma once

#include <memory>

#include "hosts/trainer/optim/optimizer.h"
#include "hosts/trainer/optim/route.h"

namespace tenon::trainer {

// One plugin instance with what the user's clause says about it.
struct OptimizerMember {
  const tn_optimizer_api* api = nullptr;
  tn_optimizer* self = nullptr;
  OptimizerExtensions extensions;
  Selector selector;
  std::optional<double> lr;  // highest rate, in place of the run's
  std::string label;         // the plugin's id: prefix of its metrics where there are several
};

// The learning rate of a step: the run's, and the schedule's height in it (1 at its highest), which members with a rate of their own
// follow.
struct Rate {
  double lr = 0, height = 1;
};

class Optimizers {
 public:
  // params: everything that trains; they outlive this. Throws where routing fails.
  Optimizers(Engine& engine, const std::vector<OptimizerMember>& members, std::vector<Parameter*> params, WeightUpdate update, uint64_t seed,
             HostUpdates* host_updates = nullptr, const SiteCodec* states = nullptr);

  const std::vector<Parameter*>& parameters() const { return params_; }
  size_t size() const { return parts_.size(); }

  void rebind(const std::vector<Parameter*>& grown);
  bool plan(const tn_step& step);  // true: what trains, or its states, differs from the step before
  // Whether the plugin drives the step: then it is the only one, and drive() takes the place of forward and backward.
  bool drives() const { return parts_.size() == 1 && parts_[0].optimizer->drives(); }
  DrivenStep drive(const tn_step& step, Rate rate, const std::function<double()>& loss) { return parts_[0].optimizer->drive(step, parts_[0].rate(rate), loss); }
  void apply_driven(Rate rate) { parts_[0].optimizer->apply_driven(parts_[0].rate(rate)); }

  void apply_one(Parameter& p, Rate rate, double grad_scale);
  void apply_all(Rate rate, double grad_scale);
  Advice finish(const tn_step& step, std::optional<double> loss);
  void drop_gradients();

  // One blob per optimizer, in the order of the clauses.
  std::vector<std::vector<std::byte>> save_small_states() const;
  void load_small_states(const std::vector<std::vector<std::byte>>& blobs, const std::function<bool(uint32_t uid)>& has_master);

 private:
  struct Part {
    std::unique_ptr<Optimizer> optimizer;
    std::optional<double> lr;
    std::string prefix;
    double rate(Rate r) const { return lr ? *lr * r.height : r.lr; }
  };
  std::vector<Parameter*> params_;
  std::vector<Part> parts_;
  std::map<uint32_t, size_t> part_of_;  // by uid
};

}  // namespace tenon::trainer
