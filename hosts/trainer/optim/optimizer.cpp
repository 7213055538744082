#include "hosts/trainer/optim/optimizer.h"

#include <algorithm>
#include <list>
#include <utility>

#include "core/error.h"
#include "hosts/trainer/engine/sinks.h"

namespace tenon::trainer {
namespace {

constexpr uint32_t kUpdateStream = 0x55504454;  // random stream of updates

constexpr uint32_t kStateStream = 0x43535441;   // of coding states

}  // namespace

struct Optimizer::StateList {
  Engine* engine;
  Parameter* parameter;
  const SiteCodec* codec;
  std::vector<Slot>* slots;
};

// What one item holds: a parameter, or a run of its elements.
struct Optimizer::Update {
  Parameter* parameter;
  Tensor value, gradient, master;
  std::vector<Tensor> states;
  int64_t begin = -1;  // of a run of elements (org.tenon.runs/1); -1: the whole parameter
};

namespace {

// Items of one apply call with everything that they point to.
class Items {
 public:
  template <class Update>
  void add(const Update& u, uint32_t flags, double lr, double grad_scale, uint64_t seed, int64_t step) {
    const Parameter& p = *u.parameter;
    Held& h = held_.emplace_back();
    h.param = u.value.ref();
    if (u.gradient) h.grad = u.gradient.ref();
    if (u.master) h.master = u.master.ref();
    for (const Tensor& s : u.states) h.state_refs.push_back(s.ref());
    for (Tensor::Ref& r : h.state_refs) h.states.push_back(&r.t);
    h.item = {sizeof(tn_item), p.uid, flags | TN_ITEM_GRAD_MAY_BE_CLOBBERED, static_cast<uint32_t>(h.states.size()), &h.param.t,
              u.master ? &h.master.t : nullptr, u.gradient ? &h.grad.t : nullptr, h.states.data(), p.updates, lr * p.lr_scale, p.decay_scale, grad_scale,
              {seed, p.uid, kUpdateStream ^ static_cast<uint32_t>(step)}};
    pointers_.push_back(&h.item);
  }
  const tn_item* const* data() const { return pointers_.data(); }
  uint64_t size() const { return pointers_.size(); }

 private:
  struct Held {
    Tensor::Ref param, grad, master;
    std::vector<Tensor::Ref> state_refs;
    std::vector<tn_tensor*> states;
    tn_item item;
  };
  std::list<Held> held_;
  std::vector<const tn_item*> pointers_;
};

Tensor run_of(const Tensor& t, int64_t begin, int64_t n) { return t ? t.reshaped({t.count()}).rows(begin, begin + n) : t; }

}  // namespace

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

int32_t Optimizer::observe(const tn_exec* exec, Parameter& p, const tn_item* item) {
  engine_.axpby(1.0 / static_cast<double>(p.tap_rows), p.tap_x, 0, p.tap_x);
  const Tensor::Ref x = p.tap_x.ref(), dy = p.tap_dy.ref();
  const tn_tap tap{sizeof(tn_tap), TN_PLAN_TAP_MEANS, p.tap_rows, &x.t, &dy.t};
  return extensions_.observe->observe(self_, exec, item, &tap);
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

void Optimizer::run(const std::vector<Update>& updates, double lr, double grad_scale) {
  uint64_t bytes = 0;
  Cost cost;
  Items items;
  for (const Update& u : updates) {
    const tn_estimate& e = estimates_.at(u.parameter->uid);
    const double share = static_cast<double>(u.value.count()) / static_cast<double>(std::max<int64_t>(u.parameter->value.count(), 1));
    bytes = std::max(bytes, e.workspace_bytes), cost.bytes += share * e.bytes_moved, cost.flops += share * e.flops;
    const bool stochastic = update_ == WeightUpdate::kStochastic && !(u.value.dtype() == kF32);
    items.add(u, stochastic ? uint32_t{TN_ITEM_STOCHASTIC_ROUNDING} : 0u, lr, grad_scale, seed_, step_);
  }
  engine_.with_workspace(bytes, "optimizer", [&](const tn_exec* exec) {
    if (updates[0].begin >= 0) return extensions_.runs->apply(self_, exec, items.data()[0], updates[0].begin);
    for (size_t i = 0; i < updates.size(); ++i)
      if (updates[i].parameter->tap_rows > 0)
        if (const int32_t seen = observe(exec, *updates[i].parameter, items.data()[i]); seen < 0) return seen;
    int32_t status = api_->prepare ? api_->prepare(self_, exec, items.data(), items.size()) : int32_t{TN_OK};
    if (status < 0) return status;
    degraded_ = degraded_ || status == TN_DEGRADED;
    status = api_->apply(self_, exec, items.data(), items.size());
    degraded_ = degraded_ || status == TN_DEGRADED;
    return status;
  }, cost);
}

// Coded states are in f32 for this update alone: panel by panel where the plugin takes runs of elements, else all of the parameter's.
void Optimizer::apply_coded(Parameter& p, double lr, double grad_scale) {
  const std::vector<Slot>& slots = slots_.at(p.uid);
  const bool in_runs = extensions_.runs &&
                       std::all_of(slots.begin(), slots.end(), [&](const Slot& s) { return s.coded && s.coded->count() == p.value.count(); });
  std::vector<Tensor> room;
  for (const Slot& s : slots)
    room.push_back(s.coded ? engine_.empty(Category::kCodec, kF32, {in_runs ? s.coded->longest() : s.coded->count()}) : Tensor());
  const int64_t turns = in_runs ? slots[0].coded->panels() : 1;
  for (int64_t turn = 0; turn < turns; ++turn) {
    Update u{&p, p.updated_value(), p.updated_gradient(), p.master, {}, -1};
    if (in_runs) {
      u.begin = slots[0].coded->begin(turn);
      const int64_t n = slots[0].coded->begin(turn + 1) - u.begin;
      u.value = run_of(u.value, u.begin, n), u.gradient = run_of(u.gradient, u.begin, n), u.master = run_of(u.master, u.begin, n);
    }
    const auto panels = [&](const CodedState& c) { return in_runs ? std::pair{turn, turn + 1} : std::pair{int64_t{0}, c.panels()}; };
    for (size_t i = 0; i < slots.size(); ++i) {
      if (!slots[i].coded) {
        u.states.push_back(p.states[slots[i].tensor]);
        continue;
      }
      const CodedState& c = *slots[i].coded;
      const auto [first, last] = panels(c);
      const Tensor values = room[i].rows(0, c.begin(last) - c.begin(first));
      c.decode(engine_, first, last, values);
      u.states.push_back(in_runs ? values : values.reshaped(c.shape().data(), static_cast<int>(c.shape().size())));
    }
    run({u}, lr, grad_scale);
    for (size_t i = 0; i < slots.size(); ++i) {
      if (!slots[i].coded) continue;
      const CodedState& c = *slots[i].coded;
      const auto [first, last] = panels(c);
      const uint32_t stream = kStateStream ^ static_cast<uint32_t>(step_) ^ static_cast<uint32_t>(i) << 28;
      c.encode(engine_, first, last, u.states[i].reshaped({u.states[i].count()}), {seed_, p.uid, stream});
    }
  }
}

void Optimizer::apply(const std::vector<Parameter*>& list, double lr, double grad_scale) {
  std::vector<Update> plain;
  for (Parameter* p : list) {
    ++p->updates;
    if (slots_.contains(p->uid))
      apply_coded(*p, lr, grad_scale);
    else
      plain.push_back({p, p->updated_value(), p->updated_gradient(), p->master, p->states, -1});
  }
  if (!plain.empty()) run(plain, lr, grad_scale);
  for (Parameter* p : list) {
    p->drop_gradient();
    if (host_updates_) host_updates_->give_value(*p);
  }
}

double Optimizer::loss_at(const tn_displacement& at, const std::function<double()>& loss) {
  const Displacer displacer{extensions_.drive, self_, &at};
  struct Back {
    std::vector<Parameter*>& all;
    ~Back() {
      for (Parameter* p : all) p->displaced = nullptr;
    }
  } back{params_};
  for (Parameter* p : params_)
    if (p->trainable) p->displaced = &displacer;
  return loss();
}

DrivenStep Optimizer::drive(const tn_step& step, double lr, const std::function<double()>& loss) {
  if (engine_.dry()) {  // one probe needs what any other needs
    const tn_displacement at{sizeof(tn_displacement), 0, nullptr};
    return {loss_at(at, loss), false};
  }
  struct Call {
    Optimizer* optimizer;
    const std::function<double()>* loss;
  } call{this, &loss};
  const tn_driver driver{sizeof(tn_driver), 0, &call, lr, [](void* self, const tn_displacement* const* at, uint64_t n, double* losses) -> int32_t {
                           auto& c = *static_cast<Call*>(self);
                           return answer([&] {
                             for (uint64_t i = 0; i < n; ++i) losses[i] = c.optimizer->loss_at(*at[i], *c.loss);
                           });
                         }};
  tn_driven out{sizeof(tn_driven), 0, 0};
  check(extensions_.drive->drive(self_, &step, &driver, &out), "driving the step");
  return {out.loss, (out.flags & TN_DRIVEN_SKIP) != 0};
}

void Optimizer::apply_driven(double lr) {
  std::vector<Parameter*> list;
  for (Parameter* p : params_)
    if (p->trainable) list.push_back(p);
  apply(list, lr, 1);
}

void Optimizer::apply_one(Parameter& p, double lr, double grad_scale) { apply({&p}, lr, grad_scale); }

void Optimizer::apply_all(double lr, double grad_scale) {
  std::vector<Parameter*> list;
  for (Parameter* p : params_)
    if (p->updated_gradient()) list.push_back(p);
  apply(list, lr, grad_scale);
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
