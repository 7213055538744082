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
  Optimizers(Engine& engine, const std::vector<OptimizerMember>& members, std::vector<Parameter*> params, WeightUpdate update, uint64_t seed);

  const std::vector<Parameter*>& parameters() const { return params_; }
  size_t size() const { return parts_.size(); }

  void rebind(const std::vector<Parameter*>& grown);
  void plan(const tn_step& step);
  void apply_one(Parameter& p, Rate rate, double grad_scale);
  void apply_all(Rate rate, double grad_scale);
  Advice finish(const tn_step& step);
  void drop_gradients();

  // One blob per optimizer, in the order of the clauses.
  std::vector<std::vector<std::byte>> save_small_states() const;
  void load_small_states(const std::vector<std::vector<std::byte>>& blobs);

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
