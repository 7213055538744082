// Driving an optimizer plugin: its states, one update, all updates.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "hosts/trainer/model/parameter.h"
#include "tenon/optimizer.h"

namespace tenon::trainer {

// What an optimizer says after a step.
struct Advice {
  std::map<std::string, double> metrics;
  bool degraded = false;        // a factorization failed and an older basis was kept
  double batch_multiplier = 1;  // of the next batch
};

// How an update reaches bf16 weights.
enum class WeightUpdate { kNearest, kStochastic, kMaster };

class Optimizer {
 public:
  // params: everything that trains, in uid order; they outlive this. Allocates states (and masters, copied from the values).
  Optimizer(Engine& engine, const tn_optimizer_api* api, tn_optimizer* self, std::vector<Parameter*> params, WeightUpdate update, uint64_t seed);

  const std::vector<Parameter*>& parameters() const { return params_; }
  bool one_at_a_time() const { return (api_->caps & TN_OPTIMIZER_ONE_AT_A_TIME) != 0; }

  // These parameters have grown: binds again, and their states grow with zeros or, where they have another shape, start again.
  void rebind(const std::vector<Parameter*>& grown);
  // Before the forward pass: the plugin says which parameters train in this step.
  void plan(const tn_step& step);
  // Updates one parameter and frees its gradient: the update inside backward.
  void apply_one(Parameter& p, double lr, double grad_scale);
  // Updates every parameter that has a gradient, then frees the gradients.
  void apply_all(double lr, double grad_scale);
  Advice finish(const tn_step& step);
  void drop_gradients();

  std::vector<std::byte> save_small_state() const;
  void load_small_state(const std::vector<std::byte>& bytes);

 private:
  void bind();
  void lay_out(Parameter& p);
  void apply(const std::vector<Parameter*>& list, double lr, double grad_scale);

  Engine& engine_;
  const tn_optimizer_api* api_;
  tn_optimizer* self_;
  std::vector<Parameter*> params_;
  std::map<uint32_t, Parameter*> by_uid_;
  std::map<uint32_t, uint64_t> workspace_;
  WeightUpdate update_;
  uint64_t seed_;
  int64_t step_ = 0;
  bool degraded_ = false;
};

}  // namespace tenon::trainer
