// Driving an optimizer plugin: its states, one update, all updates.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hosts/trainer/optim/coded_state.h"
#include "hosts/trainer/optim/host_updates.h"
#include "tenon/linear_wgrad.h"
#include "tenon/loss.h"
#include "tenon/observe.h"
#include "tenon/runs.h"

namespace tenon::trainer {

// What an optimizer says after a step.
struct Advice {
  std::map<std::string, double> metrics;
  bool degraded = false;        // a factorization failed and an older basis was kept
  double batch_multiplier = 1;  // of the next batch
};

// How an update reaches bf16 weights.
enum class WeightUpdate { kNearest, kStochastic, kMaster };

// Named extensions that a plugin may have; null where it has not.
struct OptimizerExtensions {
  const tn_drive* drive = nullptr;
  const tn_observe* observe = nullptr;
  const tn_linear_wgrad* wgrad = nullptr;
  const tn_runs* runs = nullptr;
  const tn_loss* loss = nullptr;
};

// A step that the plugin drives.
struct DrivenStep {
  double loss = 0;
  bool skip = false;
};

class Optimizer {
 public:
  // params: everything that trains, in uid order; they outlive this. Allocates states (and masters, copied from the values). engine: where
  // updates run; with host_updates it is the host's. states: holds the f32 states of matrices between updates, or null.
  Optimizer(Engine& engine, const tn_optimizer_api* api, tn_optimizer* self, std::vector<Parameter*> params, WeightUpdate update, uint64_t seed,
            const OptimizerExtensions& extensions = {}, HostUpdates* host_updates = nullptr, const SiteCodec* states = nullptr);

  const std::vector<Parameter*>& parameters() const { return params_; }
  bool one_at_a_time() const { return (api_->caps & TN_OPTIMIZER_ONE_AT_A_TIME) != 0; }

  // These parameters have grown: binds again, and their states grow with zeros or, where they have another shape, start again.
  void rebind(const std::vector<Parameter*>& grown);
  // Before the forward pass: the plugin says which parameters train in this step; states and masters come and go. True: what trains,
  // or its states, differs from the step before.
  bool plan(const tn_step& step);
  // org.tenon.drive/1: the plugin asks for losses instead of gradients. `loss` answers the mean nats of the step's data as the model
  // stands, which is displaced while it runs. Then apply_driven() moves the parameters.
  bool drives() const { return extensions_.drive != nullptr; }
  DrivenStep drive(const tn_step& step, double lr, const std::function<double()>& loss);
  void apply_driven(double lr);

  // Updates one parameter and frees its gradient: the update inside backward.
  void apply_one(Parameter& p, double lr, double grad_scale);
  // Updates every parameter that has a gradient, then frees the gradients.
  void apply_all(double lr, double grad_scale);
  // loss: of the step's data, for a plugin that watches it; none where the step was skipped.
  Advice finish(const tn_step& step, std::optional<double> loss);
  void drop_gradients();

  std::vector<std::byte> save_small_state() const;
  // Also lays out the states anew, as the plugin asks for them in the state that it came back to. has_master(uid): of the checkpoint.
  void load_small_state(const std::vector<std::byte>& bytes, const std::function<bool(uint32_t uid)>& has_master);

 private:
  // One slot of the plugin's: coded, or a tensor of the parameter's states.
  struct Slot {
    std::optional<CodedState> coded;
    size_t tensor = 0;
  };
  struct Update;
  struct StateList;
  void bind();
  void apply(const std::vector<Parameter*>& list, double lr, double grad_scale);
  void apply_coded(Parameter& p, double lr, double grad_scale);
  void run(const std::vector<Update>& updates, double lr, double grad_scale);
  void lay_out(Parameter& p);
  void drop_states(Parameter& p);
  static int32_t declare(void* self, const tn_state_slot* slot);
  void set_taps(Parameter& p, uint32_t planned);
  int32_t observe(const tn_exec* exec, Parameter& p, const tn_item* item);
  double loss_at(const tn_displacement& at, const std::function<double()>& loss);
  void make_master(Parameter& p);

  Engine& engine_;
  const tn_optimizer_api* api_;
  tn_optimizer* self_;
  std::vector<Parameter*> params_;
  std::map<uint32_t, Parameter*> by_uid_;
  std::map<uint32_t, tn_estimate> estimates_;  // of one update, by uid
  const SiteCodec* codec_;
  std::map<uint32_t, std::vector<Slot>> slots_;  // of parameters with coded states, by uid
  std::map<uint32_t, uint32_t> planned_;  // flags of the last plan, where there are any
  OptimizerExtensions extensions_;
  OwnWgrad own_wgrad_;
  WeightUpdate update_;
  uint64_t seed_;
  int64_t step_ = 0;
  bool degraded_ = false;
  HostUpdates* host_updates_;
};

}  // namespace tenon::trainer
