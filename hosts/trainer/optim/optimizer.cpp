#include "hosts/trainer/optim/optimizer.h"

#include <algorithm>
#include <list>
#include <utility>

#include "core/error.h"

namespace tenon::trainer {
namespace {

constexpr uint32_t kUpdateStream = 0x55504454;  // random stream of updates

struct StateList {
  Engine* engine;
  Parameter* parameter;
};

int32_t declare(void* self, const tn_state_slot* slot) {
  auto& list = *static_cast<StateList*>(self);
  try {
    Tensor t = list.engine->empty(Category::kOptimizerState, slot->dtype, slot->shape, slot->ndim);
    list.engine->zero(t);
    list.parameter->states.push_back(std::move(t));
    list.parameter->state_names.push_back(slot->name);
    return TN_OK;
  } catch (const Error& e) {
    list.engine->host()->error(list.engine->host(), e.code(), e.what());
    return e.code();
  }
}

// Items of one apply call with everything that they point to.
class Items {
 public:
  void add(const Parameter& p, uint32_t flags, double lr, double grad_scale, uint64_t seed, int64_t step) {
    Held& h = held_.emplace_back();
    h.param = p.value.ref(), h.grad = p.gradient.ref();
    if (p.master) h.master = p.master.ref();
    for (const Tensor& s : p.states) h.state_refs.push_back(s.ref());
    for (Tensor::Ref& r : h.state_refs) h.states.push_back(&r.t);
    h.item = {sizeof(tn_item), p.uid, flags | TN_ITEM_GRAD_MAY_BE_CLOBBERED, static_cast<uint32_t>(h.states.size()), &h.param.t,
              p.master ? &h.master.t : nullptr, &h.grad.t, h.states.data(), p.updates, lr * p.lr_scale, p.decay_scale, grad_scale,
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

}  // namespace

Optimizer::Optimizer(Engine& engine, const tn_optimizer_api* api, tn_optimizer* self, std::vector<Parameter*> params, WeightUpdate update,
                     uint64_t seed)
    : engine_(engine), api_(api), self_(self), params_(std::move(params)), update_(update), seed_(seed) {
  bind();
  for (Parameter* p : params_) {
    by_uid_[p->uid] = p;
    lay_out(*p);
    if (update_ == WeightUpdate::kMaster && !(p->value.dtype() == kF32)) {
      p->master = engine_.empty(Category::kOptimizerState, kF32, p->value.shape(), p->value.ndim());
      engine_.axpby(1, p->value, 0, p->master);
    }
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

void Optimizer::lay_out(Parameter& p) {
  StateList list{&engine_, &p};
  const tn_state_sink sink{sizeof(tn_state_sink), 0, &list, declare};
  check(api_->state_layout(self_, p.uid, &sink), "laying out optimizer states");
  tn_estimate e{sizeof(tn_estimate)};
  check(api_->estimate(self_, engine_.api(), engine_.device(), p.uid, &e), "estimating the optimizer");
  workspace_[p.uid] = e.workspace_bytes;
}

void Optimizer::rebind(const std::vector<Parameter*>& grown) {
  if (grown.empty()) return;
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

void Optimizer::plan(const tn_step& step) {
  step_ = step.step;
  if (!api_->plan) return;
  for (Parameter* p : params_) p->trainable = true;
  const tn_plan_sink sink{sizeof(tn_plan_sink), 0, this, [](void* self, uint32_t uid, uint32_t flags) -> int32_t {
                            auto& o = *static_cast<Optimizer*>(self);
                            const auto it = o.by_uid_.find(uid);
                            if (it == o.by_uid_.end()) return TN_E_NOT_FOUND;
                            if (flags & TN_PLAN_FREEZE) it->second->trainable = false;
                            return TN_OK;
                          }};
  check(api_->plan(self_, &step, &sink), "planning the optimizer's step");
}

void Optimizer::apply(const std::vector<Parameter*>& list, double lr, double grad_scale) {
  if (list.empty()) return;
  uint64_t bytes = 0;
  Items items;
  for (Parameter* p : list) {
    ++p->updates;
    bytes = std::max(bytes, workspace_.at(p->uid));
    const bool stochastic = update_ == WeightUpdate::kStochastic && !(p->value.dtype() == kF32);
    items.add(*p, stochastic ? uint32_t{TN_ITEM_STOCHASTIC_ROUNDING} : 0u, lr, grad_scale, seed_, step_);
  }
  engine_.with_workspace(bytes, "optimizer", [&](const tn_exec* exec) {
    int32_t status = api_->prepare ? api_->prepare(self_, exec, items.data(), items.size()) : int32_t{TN_OK};
    if (status < 0) return status;
    degraded_ = degraded_ || status == TN_DEGRADED;
    status = api_->apply(self_, exec, items.data(), items.size());
    degraded_ = degraded_ || status == TN_DEGRADED;
    return status;
  });
  for (Parameter* p : list) p->gradient = Tensor();
}

void Optimizer::apply_one(Parameter& p, double lr, double grad_scale) { apply({&p}, lr, grad_scale); }

void Optimizer::apply_all(double lr, double grad_scale) {
  std::vector<Parameter*> list;
  for (Parameter* p : params_)
    if (p->gradient) list.push_back(p);
  apply(list, lr, grad_scale);
}

Advice Optimizer::finish(const tn_step& step) {
  Advice out;
  if (api_->finish && !engine_.dry()) {
    tn_advice advice{sizeof(tn_advice), 0, &out.metrics,
                     [](void* self, const char* name, double value) -> int32_t {
                       (*static_cast<std::map<std::string, double>*>(self))[name] = value;
                       return TN_OK;
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
  for (Parameter* p : params_) p->gradient = Tensor();
}

std::vector<std::byte> Optimizer::save_small_state() const {
  std::vector<std::byte> bytes;
  if (!api_->save) return bytes;
  const tn_sink sink{sizeof(tn_sink), 0, &bytes, [](void* self, const void* data, uint64_t n) -> int32_t {
                       auto& out = *static_cast<std::vector<std::byte>*>(self);
                       const auto* from = static_cast<const std::byte*>(data);
                       out.insert(out.end(), from, from + n);
                       return TN_OK;
                     }};
  check(api_->save(self_, &sink), "saving the optimizer's own state");
  return bytes;
}

void Optimizer::load_small_state(const std::vector<std::byte>& bytes) {
  if (api_->load) check(api_->load(self_, bytes.data(), bytes.size()), "restoring the optimizer's own state");
}

}  // namespace tenon::trainer
