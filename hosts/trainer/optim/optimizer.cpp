// An optimizer plugin between steps: what it is bound to, its states, what it plans and what it says afterwards. update.cpp has its steps.
#include "hosts/trainer/optim/optimizer.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "hosts/trainer/engine/sinks.h"

namespace tenon::trainer {

struct Optimizer::StateList {
  Engine* engine;
  Parameter* parameter;
  const SiteCodec* codec;
  std::vector<Slot>* slots;
};

Optimizer::Optimizer(Engine& engine, const tn_optimizer_api* api, tn_optimizer* self, std::vector<Parameter*> params, WeightUpdate update,
                     uint64_t seed, const OptimizerExtensions& extensions, HostUpdates* host_updates, const SiteCodec* states)
    : engine_(engine), api_(api), self_(self), params_(std::move(params)), codec_(states), extensions_(extensions), own_wgrad_{extensions.wgrad, self}, update_(update), seed_(seed),
      host_updates_(host_updates) {
  bind();
  for (Parameter* p : params_) {
    by_uid_[p->uid] = p;
    lay_out(*p);
    if (!api_->plan) make_master(*p);  // else with the first step in which it trains
  }
}

void Optimizer::bind() {
  std::vector<tn_param> infos;
  for (const Parameter* p : params_) {
    tn_param i{};
    i.struct_size = sizeof(tn_param), i.uid = p->uid, i.role = p->role, i.repr = TN_REPR_DENSE, i.block = p->block, i.tied_to = -1;
    i.n_heads = p->n_heads, i.n_kv_heads = p->n_kv_heads, i.dtype = p->value.dtype(), i.ndim = p->value.ndim(), i.in_axis = p->in_axis;
    std::copy_n(p->value.shape(), p->value.ndim(), i.shape);
    i.name = p->name.c_str();
    infos.push_back(i);
  }
  std::vector<const tn_param*> pointers;
  for (const tn_param& i : infos) pointers.push_back(&i);
  check(api_->bind(self_, pointers.data(), pointers.size()), "binding the optimizer");
}

void Optimizer::rebind(const std::vector<Parameter*>& grown) {
  if (grown.empty()) return;
  if (codec_) throw Error(TN_E_CONFLICT, "--states codes states of a fixed size, and an adapter of this mix grows its parameters; drop --states");
  bind();
  for (Parameter* p : grown) {
    const std::vector<Tensor> before = std::move(p->states);
    p->states.clear(), p->state_names.clear();
    lay_out(*p);
    for (size_t i = 0; i < p->states.size() && i < before.size(); ++i) {
      const Tensor &now = p->states[i], &old = before[i];
      const bool elements = now.ndim() == p->value.ndim() && now.ndim() == old.ndim() && now.ndim() >= 1 && now.ndim() <= 2 &&
                            std::equal(now.shape(), now.shape() + now.ndim(), p->value.shape());
      if (!elements || (!(now.dtype() == kF32) && !(now.dtype() == kBF16))) continue;
      const Tensor rows = now.rows(0, old.dim(0));
      engine_.axpby(1, old, 0, now.ndim() == 2 ? rows.columns(0, old.dim(1)) : rows);
    }
  }
}

int32_t Optimizer::declare(void* self, const tn_state_slot* slot) {
  return answer([&] {
    auto& list = *static_cast<StateList*>(self);
    Parameter& p = *list.parameter;
    std::vector<Slot>& slots = *list.slots;
    Slot& kept = slots.emplace_back();
    if (list.codec && CodedState::takes(p, *slot)) {
      kept.coded.emplace(*list.engine, *list.codec, p, *slot, p.states, p.state_names);
      return;
    }
    kept.tensor = p.states.size();
    Tensor t = list.engine->empty(Category::kOptimizerState, slot->dtype, slot->shape, slot->ndim);
    list.engine->zero(t);
    p.states.push_back(std::move(t));
    p.state_names.push_back(slot->name);
  });
}

void Optimizer::drop_states(Parameter& p) {
  p.states.clear(), p.state_names.clear();
  slots_.erase(p.uid);
}

void Optimizer::lay_out(Parameter& p) {
  drop_states(p);
  std::vector<Slot> slots;
  StateList list{&engine_, &p, codec_, &slots};
  const tn_state_sink sink{sizeof(tn_state_sink), 0, &list, declare};
  check(api_->state_layout(self_, p.uid, &sink), "laying out optimizer states");
  if (std::any_of(slots.begin(), slots.end(), [](const Slot& s) { return s.coded.has_value(); })) slots_[p.uid] = std::move(slots);
  tn_estimate e{sizeof(tn_estimate)};
  check(api_->estimate(self_, engine_.api(), engine_.device(), p.uid, &e), "estimating the optimizer");
  estimates_[p.uid] = e;
}

void Optimizer::make_master(Parameter& p) {
  if (update_ != WeightUpdate::kMaster || p.value.dtype() == kF32 || p.master) return;
  p.master = engine_.empty(Category::kOptimizerState, kF32, p.value.shape(), p.value.ndim());
  engine_.axpby(1, p.updated_value(), 0, p.master);
}

void Optimizer::set_taps(Parameter& p, uint32_t planned) {
  const bool linear = p.in_axis >= 0 && p.role != TN_ROLE_EMBEDDING;
  if (((planned & TN_PLAN_TAP_MEANS) && !extensions_.observe) || ((planned & TN_PLAN_OWN_WGRAD) && !extensions_.wgrad))
    throw Error(TN_E_STATE, "the optimizer asks for what it has no extension to receive; it may be wrapped by one that does not pass it on");
  p.tapped = linear && (planned & TN_PLAN_TAP_MEANS);
  p.wgrad = linear && (planned & TN_PLAN_OWN_WGRAD) ? &own_wgrad_ : nullptr;
}

bool Optimizer::plan(const tn_step& step) {
  step_ = step.step;
  if (!api_->plan) return false;
  struct Flags {
    const std::map<uint32_t, Parameter*>* known;
    std::map<uint32_t, uint32_t> all;
  } flags{&by_uid_, {}};
  const tn_plan_sink sink{sizeof(tn_plan_sink), 0, &flags, [](void* self, uint32_t uid, uint32_t given) -> int32_t {
                            return answer([&] {
                              auto& f = *static_cast<Flags*>(self);
                              if (!f.known->contains(uid))
                                throw Error(TN_E_NOT_FOUND, "the optimizer planned for parameter " + std::to_string(uid) + ", which is not one of those that it was bound to");
                              f.all[uid] |= given;
                            });
                          }};
  check(api_->plan(self_, &step, &sink), "planning the optimizer's step");
  const auto of = [&](const Parameter* p) {
    const auto it = flags.all.find(p->uid);
    return it == flags.all.end() ? 0u : it->second;
  };
  // What leaves goes before what comes is allocated.
  for (Parameter* p : params_) {
    const uint32_t f = of(p);
    p->trainable = !(f & TN_PLAN_FREEZE);
    set_taps(*p, f);
    if (!(f & TN_PLAN_STATES_CHANGED)) continue;
    drop_states(*p);
    if (!p->trainable) p->master = Tensor();
    p->updates = 0;
  }
  for (Parameter* p : params_) {
    if (of(p) & TN_PLAN_STATES_CHANGED) lay_out(*p);
    if (p->trainable) make_master(*p);
  }
  const bool changed = flags.all != planned_;
  planned_ = std::move(flags.all);
  return changed;
}

Advice Optimizer::finish(const tn_step& step, std::optional<double> loss) {
  Advice out;
  if (extensions_.loss && loss && !engine_.dry()) check(extensions_.loss->seen(self_, &step, *loss), "telling the optimizer the loss");
  if (api_->finish && !engine_.dry()) {
    tn_advice advice{sizeof(tn_advice), 0, &out.metrics,
                     [](void* self, const char* name, double value) -> int32_t {
                       return answer([&] { (*static_cast<std::map<std::string, double>*>(self))[name] = value; });
                     },
                     1};
    check(api_->finish(self_, &step, &advice), "finishing the optimizer's step");
    degraded_ = degraded_ || (advice.flags & TN_ADVICE_DEGRADED);
    out.batch_multiplier = advice.batch_multiplier;
  }
  out.degraded = std::exchange(degraded_, false);
  return out;
}

void Optimizer::drop_gradients() {
  for (Parameter* p : params_) p->drop_gradient();
}

std::vector<std::byte> Optimizer::save_small_state() const {
  std::vector<std::byte> bytes;
  if (!api_->save) return bytes;
  const tn_sink sink = append_to(bytes);
  check(api_->save(self_, &sink), "saving the optimizer's own state");
  return bytes;
}

void Optimizer::load_small_state(const std::vector<std::byte>& bytes, const std::function<bool(uint32_t uid)>& has_master) {
  if (api_->load) check(api_->load(self_, bytes.data(), bytes.size()), "restoring the optimizer's own state");
  if (!api_->plan) return;
  for (Parameter* p : params_) {
    lay_out(*p);
    p->master = Tensor();
    if (has_master(p->uid)) make_master(*p);
  }
}

}  // namespace tenon::trainer
