// One step of an optimizer plugin: updates of parameters, of coded states panel by panel, and steps that the plugin drives.
#include <algorithm>
#include <list>
#include <utility>

#include "core/error.h"
#include "core/plugins/answer.h"
#include "hosts/trainer/optim/optimizer.h"

namespace tenon::trainer {

// What one item holds: a parameter, or a run of its elements.
struct Optimizer::Update {
  Parameter* parameter;
  Tensor value, gradient, master;
  std::vector<Tensor> states;
  int64_t begin = -1;  // of a run of elements (org.tenon.runs/1); -1: the whole parameter
};

namespace {

constexpr uint32_t kUpdateStream = 0x55504454;  // random stream of updates
constexpr uint32_t kStateStream = 0x43535441;   // of coding states

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

int32_t Optimizer::observe(const tn_exec* exec, Parameter& p, const tn_item* item) {
  engine_.axpby(1.0 / static_cast<double>(p.tap_rows), p.tap_x, 0, p.tap_x);
  const Tensor::Ref x = p.tap_x.ref(), dy = p.tap_dy.ref();
  const tn_tap tap{sizeof(tn_tap), TN_PLAN_TAP_MEANS, p.tap_rows, &x.t, &dy.t};
  return extensions_.observe->observe(self_, exec, item, &tap);
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

}  // namespace tenon::trainer
