// Adapters around a linear: each is called with the linear and those below it as one operator, and with its parameters and what it saved.
#include <list>

#include "core/error.h"
#include "core/plugins/answer.h"
#include "hosts/trainer/model/linear.h"
#include "hosts/trainer/model/saver.h"

namespace tenon::trainer {
namespace {

// The parameters of one site as the plugin sees them.
struct ParamViews {
  std::list<Tensor> values;
  std::list<Tensor::Ref> refs;
  std::list<tn_param_view> views;
  std::vector<const tn_param_view*> pointers;

  ParamViews(Engine& engine, const Adapter& adapter, uint32_t site, bool with_gradients) {
    for (uint32_t id : adapter.site_params.at(site)) {
      Parameter& p = *adapter.parameters[id];
      tn_tensor* grad = nullptr;
      if (with_gradients && p.trainable) grad = &refs.emplace_back(p.open_zeroed_gradient(engine).ref()).t;
      values.push_back(p.seen(engine));
      tn_tensor* value = &refs.emplace_back(values.back().ref()).t;
      pointers.push_back(&views.emplace_back(tn_param_view{sizeof(tn_param_view), id, value, grad}));
    }
  }
};

}  // namespace

// What an adapter sees as the frozen weight: the linear with the adapters below it.
struct Linear::Operator {
  const Linear* linear;
  Engine* engine;
  const LinearCall* call;
  size_t adapters_left;
  SavedLinear* saved;
  const Tensor* input;
  Tensor::Ref bias{}, leased{};

  static int32_t forward(void* self, const tn_tensor* x, double alpha, double beta, tn_tensor* y) {
    auto& o = *static_cast<Operator*>(self);
    return answer([&] {
      const Tensor tx = Tensor::borrowed(*x), ty = Tensor::borrowed(*y);
      if (o.adapters_left == 0) return o.linear->base_forward(*o.engine, tx, alpha, beta, ty);
      if (alpha == 1 && beta == 0) return o.linear->forward_through(*o.engine, *o.call, o.adapters_left, tx, ty, o.saved);
      const Tensor t = o.engine->empty(Category::kWorkspace, ty.dtype(), ty.shape(), ty.ndim());
      o.linear->forward_through(*o.engine, *o.call, o.adapters_left, tx, t, o.saved);
      o.engine->axpby(alpha, t, beta, ty);
    });
  }
  static int32_t backward(void* self, const tn_tensor* dy, double alpha, double beta, tn_tensor* dx) {
    auto& o = *static_cast<Operator*>(self);
    return answer([&] {
      const Tensor tdy = Tensor::borrowed(*dy), tdx = dx ? Tensor::borrowed(*dx) : Tensor();
      if (o.adapters_left == 0) return o.linear->base_backward(*o.engine, tdy, alpha, beta, tdx);
      if (alpha != 1) throw Error(TN_E_UNSUPPORTED, "an adapter scaled the gradient of another adapter below it; use one of them alone");
      o.linear->backward_through(*o.engine, *o.call, o.adapters_left, tdy, *o.input, dx ? &tdx : nullptr, beta, o.saved);
    });
  }
  static int32_t read_rows(void* self, int64_t begin, int64_t end, tn_tensor* out) {
    auto& o = *static_cast<Operator*>(self);
    return answer([&] { o.linear->read_rows(*o.engine, begin, end, Tensor::borrowed(*out)); });
  }
  // The whole weight belongs to whoever holds the lease: nothing else runs on a linear during a call on it.
  static int32_t lease(void* self, tn_tensor** weight) {
    auto& o = *static_cast<Operator*>(self);
    return answer([&] { o.leased = o.linear->dense().ref(), *weight = &o.leased.t; });
  }
  static int32_t release(void*) { return TN_OK; }

  tn_base_linear table() {
    tn_base_linear t{};
    t.struct_size = sizeof t, t.flags = linear->flags() & ~uint32_t{TN_LINEAR_ADAPTED}, t.self = this, t.m = linear->m, t.n = linear->n;
    if (linear->bias) bias = linear->bias->value.ref(), t.bias = &bias.t;
    if (linear->owner && !linear->instead_) {
      if (adapters_left > 0) t.forward = forward, t.backward = backward;
      return t;
    }
    t.forward = forward, t.backward = backward;
    if (linear->identity) return t;
    t.read_rows = read_rows;
    if (linear->weight && adapters_left == 0 && !linear->tied && !linear->lookup && !linear->trains_weight()) t.lease = lease, t.release = release;
    return t;
  }
};

void Linear::with_base(Engine& engine, const Tensor& instead, const std::function<void(const tn_base_linear*)>& use) const {
  const LinearCall call;
  Linear shown;
  shown.path = path, shown.site = site, shown.role = role, shown.block = block, shown.m = m, shown.n = n, shown.tied = tied;
  shown.instead_ = &instead;
  const Linear& linear = instead ? shown : *this;
  Operator base{&linear, &engine, &call, 0, nullptr, nullptr};
  const tn_base_linear table = base.table();
  use(&table);
}

const Adapter* Linear::sampler() const {
  for (const Adapter* a : adapters)
    if (a->sampler) return a;
  return nullptr;
}

void Linear::forward_through(Engine& engine, const LinearCall& call, size_t adapters_left, const Tensor& x, const Tensor& y,
                             SavedLinear* saved) const {
  if (adapters_left == 0) return base_forward(engine, x, 1, 0, y);
  const Adapter& adapter = *adapters[adapters_left - 1];
  tn_estimate e{sizeof(tn_estimate)};
  const tn_dtype compute = engine.compute();
  check(adapter.api->estimate(adapter.self, engine.api(), engine.device(), site, x.dim(0), &compute, 0, &e), "planning an adapter");
  const Block workspace = engine.memory().allocate(Category::kWorkspace, e.workspace_bytes);
  std::map<uint32_t, Tensor>* slots = saved && (call.flags & TN_CALL_SAVE) ? &saved->slots[adapters_left - 1] : nullptr;
  const bool owns = owner == &adapter;
  if (engine.dry()) {
    if (y && !owns) forward_through(engine, call, adapters_left - 1, x, y, saved);
    if (slots && e.saved_bytes) (*slots)[0] = engine.empty(Category::kActivations, kU8, {static_cast<int64_t>(e.saved_bytes)});
    return;
  }
  Saver saver{&engine, slots, &x, nullptr, {}};
  const tn_saver saver_table = saver.table();
  Operator below{this, &engine, &call, adapters_left - 1, saved, &x};
  const tn_base_linear base = below.table();
  ParamViews params(engine, adapter, site, false);
  const tn_exec exec = engine.exec(workspace.data(), e.workspace_bytes);
  const tn_adapter_call c{sizeof(tn_adapter_call), call.flags,     &exec, &saver_table, params.pointers.data(), params.pointers.size(),
                          call.step,               call.micro_batch, call.row_begin, adapter.scale,
                          call.random(adapter, site)};
  const Tensor::Ref ry = y.ref();
  engine.technique("adapter forward", Cost(e), [&] { return adapter.api->forward(adapter.self, site, &c, &base, x.ref(), y ? &ry.t : nullptr); });
  if (owns && y && bias) engine.bias_add(bias->value, y);
}

void Linear::backward_through(Engine& engine, const LinearCall& call, size_t adapters_left, const Tensor& dy, const Tensor& x, const Tensor* dx,
                              double beta, SavedLinear* saved) const {
  if (adapters_left == 0) {
    if (dx) base_backward(engine, dy, 1, beta, *dx);
    return;
  }
  // Adapters below this one get their gradients through its dx, so it is computed even where nobody else wants it.
  Tensor scratch;
  if (!dx && adapters_left > 1 && !lookup) {
    scratch = engine.empty(Category::kWorkspace, engine.compute(), {dy.dim(0), n});
    dx = &scratch, beta = 0;
  }
  const Adapter& adapter = *adapters[adapters_left - 1];
  tn_estimate e{sizeof(tn_estimate)};
  const tn_dtype compute = engine.compute();
  check(adapter.api->estimate(adapter.self, engine.api(), engine.device(), site, dy.dim(0), &compute, 1, &e), "planning an adapter");
  const Block workspace = engine.memory().allocate(Category::kWorkspace, e.workspace_bytes);
  ParamViews params(engine, adapter, site, true);
  if (engine.dry()) {
    if (owner != &adapter) backward_through(engine, call, adapters_left - 1, dy, x, dx, beta, saved);
    return;
  }
  Saver saver{&engine, &saved->slots[adapters_left - 1], &x, saved->sample.get(), {}};
  const tn_saver saver_table = saver.table();
  Operator below{this, &engine, &call, adapters_left - 1, saved, &x};
  const tn_base_linear base = below.table();
  const tn_exec exec = engine.exec(workspace.data(), e.workspace_bytes);
  const tn_adapter_call c{sizeof(tn_adapter_call), call.flags | (dx ? uint32_t{TN_CALL_NEED_DX} : 0u), &exec, &saver_table, params.pointers.data(),
                          params.pointers.size(), call.step, call.micro_batch, call.row_begin, adapter.scale,
                          call.random(adapter, site)};
  const Tensor::Ref rdx = dx ? dx->ref() : Tensor::Ref{};
  engine.technique("adapter backward", Cost(e),
                   [&] { return adapter.api->backward(adapter.self, site, &c, &base, dy.ref(), beta, dx ? &rdx.t : nullptr); });
}

// Linears that read one input share its sample.
void Linear::sample(Engine& engine, const LinearCall& call, const Tensor& x, SavedLinear& saved) const {
  const Adapter* a = sampler();
  if (!a) return;
  std::shared_ptr<const RowSample> unshared;
  std::shared_ptr<const RowSample>& kept = call.samples ? (*call.samples)[x.data()] : unshared;
  // A dry run has no addresses: there q shares with k and v, gate with up, as in a real one.
  const bool follows = engine.dry() ? role == TN_ROLE_K || role == TN_ROLE_V || role == TN_ROLE_UP : kept != nullptr;
  if (!kept || !follows) {
    RowSample s;
    int64_t count = 0;
    tn_estimate e{sizeof(tn_estimate)};
    const tn_dtype type = x.dtype();
    check(a->sampler->plan(a->self, site, x.dim(0), n, &type, &count, &e), "planning a sample");
    s.rows = engine.empty(Category::kActivations, type, {count, n});
    if (count == x.dim(0)) {
      engine.axpby(1, x, 0, s.rows);
    } else {
      s.index = engine.empty(Category::kActivations, kI32, {count});
      engine.with_workspace(e, "sample", [&](const tn_exec* exec) {
        const tn_adapter_call c{sizeof(tn_adapter_call), call.flags, exec, nullptr, nullptr, 0, call.step, call.micro_batch, call.row_begin, a->scale,
                                call.random(*a, site)};
        return a->sampler->sample(a->self, site, &c, x.ref(), s.index.ref(), s.rows.ref());
      });
    }
    kept = std::make_shared<const RowSample>(std::move(s));
  }
  saved.sample = kept;
}

}  // namespace tenon::trainer
