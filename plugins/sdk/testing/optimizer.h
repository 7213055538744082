// One optimizer plugin over a few parameters, driven as a host drives it: declared states are allocated and counted,
// the workspace is exactly what estimate() says and is full of NaN before every update.
#pragma once

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <map>
#include <string>

#include "sdk/testing/host.h"
#include "sdk/testing/inner.h"
#include "tenon/drive.h"
#include "tenon/linear_wgrad.h"
#include "tenon/loss.h"
#include "tenon/observe.h"

namespace tenon::sdk::testing {

struct Parameter {
  std::vector<int64_t> shape;
  std::vector<float> start;
  uint32_t role = TN_ROLE_OTHER;
  tn_dtype dtype = kF32;
  bool master = false;
  int32_t n_heads = 0, n_kv_heads = 0;
  int32_t block = -1;
};

struct StepOptions {
  double lr = 1e-3, decay_scale = 1, grad_scale = 1;
  uint32_t flags = 0;
  int64_t t = 0;  // 0: one more than the last
  tn_dtype grad_dtype = kF32;
  std::vector<float> tap_x, tap_dy;  // means to observe first (org.tenon.observe/1); empty: no tap
};

class OptimizerRun {
 public:
  OptimizerRun(const std::string& object, const std::map<std::string, std::string>& hypers,
               std::vector<Parameter> parameters)
      : plugin_(load_plugin(host, object)), api_(*static_cast<const tn_optimizer_api*>(plugin_.api)) {
    host.object = object, host.extensions[TN_EXT_INNER] = inner_table();
    const HyperValues values(plugin_, hypers);
    must(api_.create(host.get(), values.data(), values.size(), &self_));
    for (size_t i = 0; i < parameters.size(); ++i) add(static_cast<uint32_t>(i), parameters[i]);
    std::vector<const tn_param*> list;
    for (const Bound& b : bound_) list.push_back(&b.info);
    must(api_.bind(self_, list.data(), list.size()));
    for (Bound& b : bound_) {
      lay_out(b);
      b.estimate.struct_size = sizeof b.estimate;
      must(api_.estimate(self_, cpu_device_api(), cpu_device(), b.info.uid, &b.estimate));
    }
  }
  OptimizerRun(const OptimizerRun&) = delete;
  ~OptimizerRun() {
    if (self_) api_.destroy(self_);
  }

  // plan() of a step: freezes, and lays out anew what the plugin says has changed.
  void plan(int64_t step, uint64_t run_seed = 1) {
    if (!api_.plan) return;
    tn_step s{};
    s.struct_size = sizeof s, s.step = step, s.total_steps = 1000, s.n_micro_batches = 1, s.seed = run_seed;
    for (Bound& b : bound_) b.flags = 0;
    const tn_plan_sink sink{sizeof(tn_plan_sink), 0, this, [](void* self, uint32_t uid, uint32_t flags) -> int32_t {
                              return static_cast<OptimizerRun*>(self)->bound_.at(uid).flags |= flags, TN_OK;
                            }};
    must(api_.plan(self_, &s, &sink));
    for (Bound& b : bound_)
      if (b.flags & TN_PLAN_STATES_CHANGED) b.slots.clear(), b.t = 0, lay_out(b);
  }
  bool frozen(size_t i) const { return bound_[i].flags & TN_PLAN_FREEZE; }
  uint32_t planned(size_t i) const { return bound_[i].flags; }

  // One update of parameter i; returns the status.
  int32_t step(size_t i, const std::vector<float>& grad, StepOptions o = {}) {
    Tensor g(o.grad_dtype, bound_[i].shape, grad);
    return update(i, g.get(), o);
  }
  // The same with a gradient tensor, or none.
  int32_t update(size_t i, tn_tensor* grad, StepOptions o = {}) {
    Bound& b = bound_[i];
    std::vector<tn_tensor*> states;
    const tn_item item = item_of(b, states, grad, o);
    Exec exec(b.estimate.workspace_bytes);
    const tn_item* items[] = {&item};
    host.error.clear();
    if (!o.tap_x.empty()) {
      Tensor x(kF32, {static_cast<int64_t>(o.tap_x.size())}, o.tap_x), dy(kF32, {static_cast<int64_t>(o.tap_dy.size())}, o.tap_dy);
      const tn_tap tap{sizeof tap, TN_PLAN_TAP_MEANS, 1, x.get(), dy.get()};
      must(extension<tn_observe>(TN_EXT_OBSERVE)->observe(self_, exec.get(), &item, &tap));
      exec.poison();
    }
    if (api_.prepare) must(api_.prepare(self_, exec.get(), items, 1));
    const int32_t status = api_.apply(self_, exec.get(), items, 1);
    if (!exec.intact() || !b.param.intact() || !b.master.intact())
      fail(TN_E_INTERNAL, "the plugin wrote past the end of its memory");
    for (const Slot& s : b.slots)
      if (!s.tensor.intact()) fail(TN_E_INTERNAL, "the plugin wrote past the end of state " + s.name);
    return status;
  }

  // One update of all parameters in one call, as a host makes it; each with its own options, and none where its gradient is empty.
  int32_t step_all(const std::vector<std::vector<float>>& grads, const std::vector<StepOptions>& options) {
    uint64_t workspace = 0;
    std::deque<Tensor> tensors;
    std::deque<std::vector<tn_tensor*>> states;
    std::deque<tn_item> items;
    std::vector<const tn_item*> list;
    for (size_t i = 0; i < bound_.size(); ++i) {
      Bound& b = bound_[i];
      workspace = std::max(workspace, b.estimate.workspace_bytes);
      tn_tensor* const grad = grads[i].empty() ? nullptr : tensors.emplace_back(options[i].grad_dtype, b.shape, grads[i]).get();
      list.push_back(&items.emplace_back(item_of(b, states.emplace_back(), grad, options[i])));
    }
    Exec exec(workspace);
    host.error.clear();
    if (api_.prepare) must(api_.prepare(self_, exec.get(), list.data(), list.size()));
    const int32_t status = api_.apply(self_, exec.get(), list.data(), list.size());
    if (!exec.intact()) fail(TN_E_INTERNAL, "the plugin wrote past the end of its workspace");
    for (const Bound& b : bound_) {
      bool whole = b.param.intact() && b.master.intact();
      for (const Slot& s : b.slots) whole = whole && s.tensor.intact();
      if (!whole) fail(TN_E_INTERNAL, "the plugin wrote past the end of its memory");
    }
    return status;
  }

  // dw of parameter [m, n] from rows of x and dy in `dtype`, samples beginning where `begin` says (org.tenon.linear-wgrad/1).
  std::vector<float> wgrad(size_t i, const std::vector<float>& x, const std::vector<float>& dy, const std::vector<int64_t>& begin, double grad_scale,
                           double beta = 0, const std::vector<float>& dw = {}, tn_dtype dtype = kF32, tn_dtype sum_dtype = kF32) {
    const Bound& b = bound_[i];
    const int64_t rows = begin.back(), m = b.shape[0], n = b.shape[1];
    Tensor tx(dtype, {rows, n}, x), tdy(dtype, {rows, m}, dy), out(sum_dtype, {m, n}, dw.empty() ? std::vector<float>(static_cast<size_t>(m * n), NAN) : dw);
    const auto* table = extension<tn_linear_wgrad>(TN_EXT_LINEAR_WGRAD);
    const tn_samples samples{sizeof samples, 0, static_cast<int64_t>(begin.size()) - 1, begin.data(), grad_scale};
    tn_estimate e{};
    e.struct_size = sizeof e;
    must(table->estimate(self_, cpu_device_api(), cpu_device(), b.info.uid, rows, samples.n, &e));
    Exec exec(e.workspace_bytes);
    must(table->wgrad(self_, exec.get(), b.info.uid, &samples, tx.get(), tdy.get(), beta, out.get()));
    if (!exec.intact() || !out.intact()) fail(TN_E_INTERNAL, "the plugin wrote past the end of its memory");
    return out.floats();
  }

  // Elements [begin, end) of parameter i displaced by the terms, in this dtype (org.tenon.drive/1).
  std::vector<float> perturbed(size_t i, const std::vector<tn_term>& terms, int64_t begin, int64_t end, tn_dtype dtype = kF32) {
    Bound& b = bound_[i];
    Tensor out(dtype, {end - begin});
    std::vector<const tn_term*> pointers;
    for (const tn_term& t : terms) pointers.push_back(&t);
    const tn_displacement at{sizeof at, static_cast<uint32_t>(terms.size()), pointers.data()};
    Exec exec(0);
    must(driver()->perturb(self_, exec.get(), b.info.uid, b.param.get(), &at, begin, end, out.get()));
    if (!out.intact()) fail(TN_E_INTERNAL, "perturb wrote past the end of its output");
    return out.floats();
  }

  // A step that the plugin drives: plan, drive with `loss` of all displaced parameters, and the update of all unless it is skipped.
  using Loss = std::function<double(const std::vector<std::vector<float>>&)>;
  tn_driven drive(int64_t step, const Loss& loss, StepOptions o = {}, uint64_t run_seed = 1) {
    plan(step, run_seed);
    struct Call {
      OptimizerRun* run;
      const Loss* loss;
    } call{this, &loss};
    const tn_driver table{sizeof table, 0, &call, o.lr, [](void* self, const tn_displacement* const* at, uint64_t n, double* losses) -> int32_t {
                            const auto& c = *static_cast<Call*>(self);
                            for (uint64_t k = 0; k < n; ++k) {
                              std::vector<std::vector<float>> all;
                              for (size_t i = 0; i < c.run->bound_.size(); ++i) {
                                std::vector<tn_term> terms;
                                if (!c.run->frozen(i))
                                  for (uint32_t t = 0; t < at[k]->n_terms; ++t) terms.push_back(*at[k]->terms[t]);
                                all.push_back(c.run->perturbed(i, terms, 0, static_cast<int64_t>(c.run->weights(i).size())));
                              }
                              losses[k] = (*c.loss)(all);
                            }
                            return TN_OK;
                          }};
    tn_step s{};
    s.struct_size = sizeof s, s.step = step, s.total_steps = 1000, s.n_micro_batches = 1, s.seed = run_seed;
    tn_driven out{};
    out.struct_size = sizeof out;
    must(driver()->drive(self_, &s, &table, &out));
    if (out.flags & TN_DRIVEN_SKIP) return out;
    for (size_t i = 0; i < bound_.size(); ++i)
      if (!frozen(i)) must(update(i, nullptr, o));
    return out;
  }

  std::vector<float> weights(size_t i = 0) const { return bound_[i].param.floats(); }
  std::vector<float> masters(size_t i = 0) const { return bound_[i].master.floats(); }
  Tensor& state(size_t i, const std::string& name) {
    for (Slot& s : bound_[i].slots)
      if (s.name == name) return s.tensor;
    fail(TN_E_NOT_FOUND, "no state " + name);
  }
  std::vector<std::string> state_names(size_t i = 0) const {
    std::vector<std::string> out;
    for (const Slot& s : bound_[i].slots) out.push_back(s.name);
    return out;
  }
  uint64_t state_bytes(size_t i = 0) const {
    uint64_t n = 0;
    for (const Slot& s : bound_[i].slots) n += s.tensor.bytes();
    return n;
  }
  const tn_estimate& estimate(size_t i = 0) const { return bound_[i].estimate; }
  const tn_optimizer_api& api() const { return api_; }
  tn_optimizer* self() const { return self_; }

  // The loss of a step (org.tenon.loss/1).
  void see_loss(double loss) {
    tn_step step{};
    step.struct_size = sizeof step;
    must(extension<tn_loss>(TN_EXT_LOSS)->seen(self_, &step, loss));
  }

  // finish(): the metrics by name, and whether the plugin reported a stated loss.
  std::map<std::string, double> finish(bool* degraded = nullptr) {
    std::map<std::string, double> out;
    tn_step step{};
    step.struct_size = sizeof step;
    tn_advice advice{};
    advice.struct_size = sizeof advice, advice.self = &out, advice.batch_multiplier = 1;
    advice.metric = [](void* self, const char* name, double value) {
      (*static_cast<std::map<std::string, double>*>(self))[name] = value;
      return static_cast<int32_t>(TN_OK);
    };
    must(api_.finish(self_, &step, &advice));
    if (degraded) *degraded = advice.flags & TN_ADVICE_DEGRADED;
    return out;
  }

  // Everything that a checkpoint holds, to be taken over by a run of the same parameters.
  void resume_from(const OptimizerRun& other) {
    for (size_t i = 0; i < bound_.size(); ++i) {
      bound_[i].t = other.bound_[i].t;
      bound_[i].param = other.bound_[i].param.clone();
      bound_[i].master = other.bound_[i].master.clone();
    }
    load_from(other);
    for (size_t i = 0; i < bound_.size(); ++i) {
      if (api_.plan) bound_[i].slots.clear(), lay_out(bound_[i]);
      for (size_t k = 0; k < bound_[i].slots.size(); ++k)
        bound_[i].slots[k].tensor = other.bound_[i].slots[k].tensor.clone();
    }
  }
  bool same_bits(const OptimizerRun& other) const {
    for (size_t i = 0; i < bound_.size(); ++i) {
      if (bound_[i].param.raw() != other.bound_[i].param.raw() ||
          bound_[i].master.raw() != other.bound_[i].master.raw())
        return false;
      for (size_t k = 0; k < bound_[i].slots.size(); ++k)
        if (bound_[i].slots[k].tensor.raw() != other.bound_[i].slots[k].tensor.raw()) return false;
    }
    return true;
  }

  FakeHost host;
  uint64_t seed = 1234;

 private:
  struct Slot {
    std::string name;
    uint32_t role;
    Tensor tensor;
  };
  struct Bound {
    tn_param info{};
    std::vector<int64_t> shape;
    Tensor param, master;
    bool has_master;
    std::deque<Slot> slots{};
    tn_estimate estimate{};
    int64_t t = 0;
    uint32_t flags = 0;  // TN_PLAN_*
  };

  template <class Table>
  const Table* extension(const char* id) {
    const auto* table = plugin_.get_extension ? static_cast<const Table*>(plugin_.get_extension(id)) : nullptr;
    if (!table) fail(TN_E_UNSUPPORTED, std::string("the plugin has no ") + id);
    return table;
  }
  const tn_drive* driver() { return extension<tn_drive>(TN_EXT_DRIVE); }
  void lay_out(Bound& b) {
    const tn_state_sink sink{sizeof(tn_state_sink), 0, &b, declare};
    must(api_.state_layout(self_, b.info.uid, &sink));
  }
  void load_from(const OptimizerRun& other) {
    if (!api_.save) return;
    std::string blob;
    const tn_sink sink{sizeof(tn_sink), 0, &blob, [](void* self, const void* bytes, uint64_t n) {
                         static_cast<std::string*>(self)->append(static_cast<const char*>(bytes), n);
                         return static_cast<int32_t>(TN_OK);
                       }};
    must(api_.save(other.self_, &sink));
    must(api_.load(self_, blob.data(), blob.size()));
  }

  // `states` is what the item points to.
  tn_item item_of(Bound& b, std::vector<tn_tensor*>& states, tn_tensor* grad, const StepOptions& o) {
    for (Slot& s : b.slots) states.push_back(s.tensor.get());
    b.t = o.t ? o.t : b.t + 1;
    tn_item item{};
    item.struct_size = sizeof item, item.uid = b.info.uid, item.flags = o.flags;
    item.param = b.param.get(), item.master = b.has_master ? b.master.get() : nullptr, item.grad = grad;
    item.states = states.data(), item.n_states = static_cast<uint32_t>(states.size());
    item.t = b.t, item.lr = o.lr, item.decay_scale = o.decay_scale, item.grad_scale = o.grad_scale;
    item.rng = {seed, b.info.uid, static_cast<uint32_t>(b.t)};
    return item;
  }
  void add(uint32_t uid, const Parameter& p) {
    Bound b{{}, p.shape, Tensor(p.dtype, p.shape, p.start), Tensor(kF32, p.shape, p.start), p.master};
    b.info.struct_size = sizeof b.info;
    b.info.n_heads = p.n_heads, b.info.n_kv_heads = p.n_kv_heads;
    b.info.uid = uid, b.info.role = p.role, b.info.repr = TN_REPR_DENSE, b.info.tied_to = -1, b.info.block = p.block,
    b.info.in_axis = p.shape.size() == 2 ? 1 : -1;
    b.info.dtype = p.dtype, b.info.ndim = static_cast<int32_t>(p.shape.size()), b.info.name = "w";
    std::copy(p.shape.begin(), p.shape.end(), b.info.shape);
    bound_.push_back(std::move(b));
  }
  static int32_t declare(void* self, const tn_state_slot* slot) {
    static_cast<Bound*>(self)->slots.push_back(
        {slot->name, slot->role, Tensor(slot->dtype, {slot->shape, slot->shape + slot->ndim})});
    return TN_OK;
  }
  void must(int32_t status) {
    if (status < 0) fail(status, host.error);
  }

  const tn_plugin& plugin_;
  const tn_optimizer_api& api_;
  tn_optimizer* self_ = nullptr;
  std::deque<Bound> bound_;
};

}  // namespace tenon::sdk::testing
