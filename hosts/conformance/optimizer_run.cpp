#include "hosts/conformance/optimizer_run.h"

#include <algorithm>
#include <set>
#include <utility>

#include "hosts/conformance/check.h"
#include "sdk/dtype.h"

namespace tenon::conformance {

// What state_layout declares. Called from inside the plugin, so it never throws.
struct OptimizerRun::Collector {
  struct Declared {
    std::string name;
    tn_dtype dtype;
    std::vector<int64_t> shape;
    uint32_t role;
    bool operator==(const Declared& o) const {
      return name == o.name && sdk::same(dtype, o.dtype) && shape == o.shape && role == o.role;
    }
  };
  std::vector<Declared> slots;
  std::string fault;

  static int32_t declare(void* self, const tn_state_slot* slot) {
    auto& c = *static_cast<Collector*>(self);
    if (!slot || !slot->name || !*slot->name) return c.fault = "a state has no name", TN_E_ARGUMENT;
    if (slot->ndim < 0 || slot->ndim > 4)
      return c.fault = std::string("state ") + slot->name + " has " + std::to_string(slot->ndim) + " axes",
             TN_E_ARGUMENT;
    for (int32_t i = 0; i < slot->ndim; ++i)
      if (slot->shape[i] < 0 || slot->shape[i] > 1 << 24)
        return c.fault = std::string("state ") + slot->name + " has an impossible shape", TN_E_ARGUMENT;
    if (slot->role == TN_SLOT_UNDEFINED || slot->role > TN_SLOT_BASIS)
      return c.fault = std::string("state ") + slot->name + " has no role that the ABI knows", TN_E_ARGUMENT;
    if (slot->dtype.bits == 0 || slot->dtype.lanes != 1)
      return c.fault = std::string("state ") + slot->name + " has an impossible dtype", TN_E_ARGUMENT;
    c.slots.push_back({slot->name, slot->dtype, {slot->shape, slot->shape + slot->ndim}, slot->role});
    return TN_OK;
  }
};

OptimizerRun::OptimizerRun(Subject& subject, const Spec& spec, const std::vector<ParameterForm>& forms, bool longer)
    : subject_(subject),
      bench_(subject.bench()),
      api_(subject.api<tn_optimizer_api>()),
      drive_(subject.plugin().extension<tn_drive>(TN_EXT_DRIVE)),
      observe_(subject.plugin().extension<tn_observe>(TN_EXT_OBSERVE)),
      runs_(subject.plugin().extension<tn_runs>(TN_EXT_RUNS)),
      loss_(subject.plugin().extension<tn_loss>(TN_EXT_LOSS)),
      forms_(forms),
      longer_(longer) {
  int32_t status = 0;
  instance_ = std::make_unique<Instance<tn_optimizer_api, tn_optimizer>>(api_, spec, status);
  if (status < 0) refused(status, "create");
  bound_.resize(forms.size());
  for (size_t i = 0; i < forms.size(); ++i) add(i, longer);
  std::vector<const tn_param*> list;
  for (const Bound& b : bound_) list.push_back(&b.info.value);
  status = api_.bind(instance_->get(), list.data(), list.size());
  if (status < 0) refused(status, "bind");
  for (Bound& b : bound_) declare_states(b);
}

OptimizerRun::~OptimizerRun() = default;

void OptimizerRun::add(size_t i, bool longer) {
  Bound& b = bound_[i];
  const ParameterForm& f = forms_[i];
  tn_param& p = *b.info.get(TN_SIZE_TO(tn_param, name), longer);
  // Hosts number parameters as they like.
  p.uid = i % 2 ? 0xC0000000u + static_cast<uint32_t>(i) : static_cast<uint32_t>(100 - i), p.role = f.role,
  p.repr = TN_REPR_DENSE, p.block = f.role == TN_ROLE_EMBEDDING ? -1 : static_cast<int32_t>(i), p.tied_to = -1;
  p.dtype = f.dtype, p.ndim = static_cast<int32_t>(f.shape.size()), p.in_axis = p.ndim == 2 ? 1 : -1,
  p.name = "battery.weight";
  std::copy(f.shape.begin(), f.shape.end(), p.shape);
  const std::string of = " of a " + shape_text(f.shape) + " parameter";
  b.param = std::make_unique<Tensor>(bench_, "the weights" + of, f.dtype, f.shape);
  std::vector<float> start = normals(b.param->count(), static_cast<uint32_t>(i));
  b.param->set(start);
  if (f.master) b.master = std::make_unique<Tensor>(bench_, "the master" + of, sdk::kF32, f.shape, b.param->floats());
}

void OptimizerRun::declare_states(Bound& b) {
  const auto collect = [&] {
    Collector c;
    Longer<tn_state_sink> sink;
    sink.value = {0, 0, &c, Collector::declare};
    must(api_.state_layout(instance_->get(), b.info.value.uid, sink.get(TN_SIZE_TO(tn_state_sink, declare), longer_)),
         "state_layout");
    expect(c.fault.empty(), c.fault);
    return c.slots;
  };
  b.slots.clear();
  const auto slots = collect();
  expect(slots == collect(), "state_layout answers another layout when it is asked again");
  std::set<std::string> names;
  for (const auto& s : slots) {
    expect(names.insert(s.name).second, "two states have the name " + s.name);
    b.slots.push_back({s.name, std::make_unique<Tensor>(
                                   bench_, "state " + s.name + " of a " + shape_text(b.param->shape()) + " parameter",
                                   s.dtype, s.shape)});
  }
  Longer<tn_estimate> e;
  must(api_.estimate(instance_->get(), bench_.api, bench_.device, b.info.value.uid,
                     e.get(TN_SIZE_TO(tn_estimate, bytes_moved), longer_)),
       "estimate");
  expect(e.intact(), "estimate wrote past the end of tn_estimate as this ABI knows it");
  b.estimate = e.value;
}

void OptimizerRun::step(const OptimizerStep& options) {
  ++t_;
  Longer<tn_step> s;
  tn_step& step = *s.get(TN_SIZE_TO(tn_step, seed), longer_);
  step.n_micro_batches = 1, step.step = t_, step.total_steps = 1000, step.tokens = t_ * 100, step.seed = 7;
  for (Bound& b : bound_) b.planned = 0;
  if (TN_HAS(&api_, tn_optimizer_api, plan) && api_.plan) {
    Longer<tn_plan_sink> sink;
    sink.value = {0, 0, &bound_, [](void* self, uint32_t uid, uint32_t flags) -> int32_t {
                    for (Bound& b : *static_cast<std::vector<Bound>*>(self))
                      if (b.info.value.uid == uid) b.planned |= flags;
                    return TN_OK;
                  }};
    must(api_.plan(instance_->get(), &step, sink.get(TN_SIZE_TO(tn_plan_sink, param), longer_)), "plan");
    for (Bound& b : bound_)
      if (b.planned & TN_PLAN_STATES_CHANGED) declare_states(b);
  }
  std::vector<size_t> which;
  for (size_t i = 0; i < bound_.size(); ++i)
    if (!frozen(i)) which.push_back(i);
  if (options.order == OptimizerStep::Order::kReversed) std::reverse(which.begin(), which.end());
  if (drive_ && !drive(step, which, options)) which.clear();
  if (options.order == OptimizerStep::Order::kOneByOne) {
    for (const size_t i : which) apply({i}, options);
  } else if (options.order == OptimizerStep::Order::kInRuns) {
    for (const size_t i : which) apply_runs(i, options);
  } else {
    apply(which, options);
  }
  if (loss_) must(loss_->seen(instance_->get(), &step, 5.0 / static_cast<double>(t_)), "seen of the step's loss");
  if (TN_HAS(&api_, tn_optimizer_api, finish) && api_.finish) {
    Longer<tn_advice> advice;
    bool unnamed = false;
    advice.value = {0, 0, &unnamed,
                    [](void* self, const char* name, double) -> int32_t {
                      *static_cast<bool*>(self) |= !name || !*name;
                      return TN_OK;
                    },
                    1};
    must(api_.finish(instance_->get(), &step, advice.get(TN_SIZE_TO(tn_advice, batch_multiplier), longer_)), "finish");
    expect(!unnamed, "finish reported a metric without a name");
    expect(advice.value.batch_multiplier > 0, "finish advises a batch size that is not positive");
  }
}

std::vector<float> OptimizerRun::gradient(size_t i, const OptimizerStep& options) {
  return options.gradient ? options.gradient(i, t_)
                          : normals(bound_[i].param->count(), static_cast<uint32_t>(1000 * t_ + static_cast<int64_t>(i)));
}

// What org.tenon.observe/1 would tell of a linear: means that are keyed by parameter and step.
void OptimizerRun::observe(size_t i, const tn_exec* exec, const tn_item& item) {
  expect(observe_ != nullptr, "plan asks for a tap, and the plugin has no org.tenon.observe/1 to receive it");
  const Tensor& p = *bound_[i].param;
  if (p.shape().size() != 2) return;
  const auto mean = [&](int axis) {
    return Tensor(bench_, "a mean of a " + shape_text(p.shape()) + " parameter", sdk::kF32, {p.shape()[axis]},
                  normals(p.shape()[axis], static_cast<uint32_t>(2000 * t_ + 10 * static_cast<int64_t>(i) + axis)));
  };
  Tensor x = mean(1), dy = mean(0);
  Longer<tn_tap> tap;
  tap.value = {0, TN_PLAN_TAP_MEANS, 100, x.get(), dy.get()};
  must(observe_->observe(instance_->get(), exec, &item, tap.get(TN_SIZE_TO(tn_tap, dy), longer_)), "observe");
  bench_.expect_intact("observe");
}

double OptimizerRun::probe(const tn_displacement& at, const std::vector<size_t>& which, const std::vector<std::vector<float>>& gradients,
                           uint8_t poison) {
  double loss = 0;
  for (const size_t i : which) {
    Bound& b = bound_[i];
    const int64_t n = b.param->count(), cut = n / 3;
    const std::vector<uint8_t> before = b.param->raw();
    // In two ranges that begin where no block of noise does.
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, cut}, {cut, n}}) {
      Tensor out(bench_, "a displaced range of a " + shape_text(b.param->shape()) + " parameter", sdk::kF32, {end - begin});
      const Exec exec(bench_, 0, poison);
      must(drive_->perturb(instance_->get(), exec.get(), b.info.value.uid, b.param->get(), &at, begin, end, out.get()), "perturb");
      bench_.expect_intact("perturb");
      const std::vector<float> values = out.floats();
      for (int64_t k = begin; k < end; ++k) loss += static_cast<double>(values[k - begin]) * gradients[i][k];
    }
    expect(b.param->raw() == before, "perturb changed the parameter itself");
  }
  return loss;
}

// False: the plugin skips the step.
bool OptimizerRun::drive(const tn_step& step, const std::vector<size_t>& which, const OptimizerStep& options) {
  struct Call {
    OptimizerRun* run;
    const std::vector<size_t>* which;
    const OptimizerStep* options;
    std::vector<std::vector<float>> gradients;
    std::string fault;
  } call{this, &which, &options, {}, {}};
  for (size_t i = 0; i < bound_.size(); ++i) call.gradients.push_back(gradient(i, options));
  Longer<tn_driver> driver;
  driver.value = {0, 0, &call, options.lr, [](void* self, const tn_displacement* const* at, uint64_t n, double* losses) -> int32_t {
                    auto& c = *static_cast<Call*>(self);
                    try {
                      for (uint64_t i = 0; i < n; ++i)
                        losses[i] = c.options->grad_scale * c.run->probe(*at[i], *c.which, c.gradients, c.options->poison);
                      return TN_OK;
                    } catch (const Failed& f) {  // nothing may be thrown through the plugin
                      c.fault = f.sentence;
                      return TN_E_INTERNAL;
                    }
                  }};
  Longer<tn_driven> out;
  const int32_t status = drive_->drive(instance_->get(), &step, driver.get(TN_SIZE_TO(tn_driver, losses), longer_), out.get(TN_SIZE_TO(tn_driven, loss), longer_));
  expect(call.fault.empty(), call.fault);
  must(status, "drive");
  expect(out.intact(), "drive wrote past the end of tn_driven as this ABI knows it");
  return !(out.value.flags & TN_DRIVEN_SKIP);
}

void OptimizerRun::apply(const std::vector<size_t>& which, const OptimizerStep& options) {
  std::vector<std::unique_ptr<Tensor>> gradients;
  std::vector<std::vector<tn_tensor*>> states(which.size());
  std::vector<Longer<tn_item>> items(which.size());
  std::vector<const tn_item*> list;
  uint64_t workspace = 0;
  for (size_t k = 0; k < which.size(); ++k) {
    Bound& b = bound_[which[k]];
    gradients.push_back(std::make_unique<Tensor>(bench_,
                                                 "the gradient of a " + shape_text(b.param->shape()) + " parameter",
                                                 options.grad_dtype, b.param->shape(), gradient(which[k], options)));
    if (!(options.flags & TN_ITEM_GRAD_MAY_BE_CLOBBERED)) gradients.back()->seal();
    for (Slot& s : b.slots) states[k].push_back(s.tensor->get());
    tn_item& item = *items[k].get(TN_SIZE_TO(tn_item, rng), longer_);
    item.uid = b.info.value.uid, item.flags = options.flags, item.n_states = static_cast<uint32_t>(states[k].size());
    item.param = b.param->get(), item.master = b.master ? b.master->get() : nullptr,
    item.grad = drive_ ? nullptr : gradients.back()->get(), item.states = states[k].data();
    item.t = t_, item.lr = options.lr, item.decay_scale = options.decay_scale, item.grad_scale = options.grad_scale;
    item.rng = {7, item.uid, static_cast<uint32_t>(t_)};
    list.push_back(&item);
    workspace = std::max(workspace, b.estimate.workspace_bytes);
  }
  const Exec exec(bench_, workspace, options.poison);
  for (size_t k = 0; k < which.size(); ++k)
    if (bound_[which[k]].planned & TN_PLAN_TAP_MEANS) observe(which[k], exec.get(), *list[k]);
  if (TN_HAS(&api_, tn_optimizer_api, prepare) && api_.prepare) {
    must(api_.prepare(instance_->get(), exec.get(), list.data(), list.size()), "prepare");
    bench_.expect_intact("prepare");
  }
  must(api_.apply(instance_->get(), exec.get(), list.data(), list.size()), "apply");
  bench_.expect_intact("apply");
}

// Elements of one parameter in runs, as a host cuts them whose states are elsewhere (org.tenon.runs/1).
void OptimizerRun::apply_runs(size_t i, const OptimizerStep& options) {
  Bound& b = bound_[i];
  Tensor gradients(bench_, "the gradient of a " + shape_text(b.param->shape()) + " parameter", options.grad_dtype, b.param->shape(), gradient(i, options));
  constexpr int64_t kRun = TN_RUN_ALIGNMENT;
  for (int64_t begin = 0; begin < b.param->count(); begin += kRun) {
    int64_t n = std::min(kRun, b.param->count() - begin), stride = 1;
    const auto cut = [&](Tensor& t) {
      tn_tensor view = *t.get();
      view.data = static_cast<char*>(view.data) + begin * (t.dtype().bits / 8);
      view.ndim = 1, view.shape = &n, view.strides = &stride;
      return view;
    };
    tn_tensor param = cut(*b.param), grad = cut(gradients), master{};
    if (b.master) master = cut(*b.master);
    std::vector<tn_tensor> states;
    for (Slot& s : b.slots) {
      expect(s.tensor->count() == b.param->count(), "a state has other elements than its parameter, against org.tenon.runs/1");
      states.push_back(cut(*s.tensor));
    }
    std::vector<tn_tensor*> pointers;
    for (tn_tensor& t : states) pointers.push_back(&t);
    Longer<tn_item> held;
    tn_item& item = *held.get(TN_SIZE_TO(tn_item, rng), longer_);
    item.uid = b.info.value.uid, item.flags = options.flags, item.n_states = static_cast<uint32_t>(states.size());
    item.param = &param, item.master = b.master ? &master : nullptr, item.grad = &grad, item.states = pointers.data();
    item.t = t_, item.lr = options.lr, item.decay_scale = options.decay_scale, item.grad_scale = options.grad_scale;
    item.rng = {7, item.uid, static_cast<uint32_t>(t_)};
    const Exec exec(bench_, b.estimate.workspace_bytes, options.poison);
    must(runs_->apply(instance_->get(), exec.get(), &item, begin), "apply of a run of elements");
    bench_.expect_intact("apply of a run of elements");
  }
}

std::vector<Tensor*> OptimizerRun::tensors() {
  std::vector<Tensor*> out;
  for (Bound& b : bound_) {
    out.push_back(b.param.get());
    if (b.master) out.push_back(b.master.get());
    for (Slot& s : b.slots) out.push_back(s.tensor.get());
  }
  return out;
}

std::vector<std::vector<uint8_t>> OptimizerRun::bits() const {
  std::vector<std::vector<uint8_t>> out;
  for (const Tensor* t : const_cast<OptimizerRun*>(this)->tensors()) out.push_back(t->raw());
  return out;
}

void OptimizerRun::resume_from(OptimizerRun& other) {
  t_ = other.t_;
  load_from(other);
  if (TN_HAS(&api_, tn_optimizer_api, plan) && api_.plan)
    for (Bound& b : bound_) declare_states(b);
  const auto mine = tensors(), theirs = other.tensors();
  expect(mine.size() == theirs.size(), "after load, state_layout asks for other states than were saved");
  for (size_t i = 0; i < mine.size(); ++i) mine[i]->set_raw(theirs[i]->raw());
}

void OptimizerRun::load_from(OptimizerRun& other) {
  if (!TN_HAS(&api_, tn_optimizer_api, save) || !api_.save) return;
  std::string blob;
  const tn_sink sink{TN_SIZE_TO(tn_sink, write), 0, &blob, [](void* self, const void* bytes, uint64_t n) -> int32_t {
                       static_cast<std::string*>(self)->append(static_cast<const char*>(bytes), n);
                       return TN_OK;
                     }};
  must(api_.save(other.instance_->get(), &sink), "save");
  must(api_.load(instance_->get(), blob.data(), blob.size()), "load");
}

void OptimizerRun::relocate() {
  const auto move = [&](std::unique_ptr<Tensor>& t) {
    auto moved = std::make_unique<Tensor>(bench_, t->name(), t->dtype(), t->shape());
    moved->set_raw(t->raw());
    t->fill(0xFF);
    t->seal();
    abandoned_.push_back(std::exchange(t, std::move(moved)));
  };
  for (Bound& b : bound_) {
    move(b.param);
    if (b.master) move(b.master);
    for (Slot& s : b.slots) move(s.tensor);
  }
}

uint64_t OptimizerRun::state_bytes(size_t i) const {
  uint64_t n = 0;
  for (const Slot& s : bound_[i].slots) n += s.tensor->bytes();
  return n;
}

}  // namespace tenon::conformance
