#include "hosts/trainer/model/linear.h"

#include <algorithm>
#include <list>

#include "core/error.h"
#include "core/plugins/answer.h"
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

uint32_t Linear::flags() const {
  return (quantized ? uint32_t{TN_LINEAR_QUANTIZED} : 0u) | (tied ? uint32_t{TN_LINEAR_TIED} : 0u) | (owner ? uint32_t{TN_LINEAR_OWNED} : 0u) |
         (adapters.empty() ? 0u : uint32_t{TN_LINEAR_ADAPTED});
}

const Adapter* Linear::sampler() const {
  for (const Adapter* a : adapters)
    if (a->sampler) return a;
  return nullptr;
}

bool Linear::needs_input() const {
  if (sampler()) return false;
  if (trains_weight() || trains_components()) return true;
  for (const Adapter* a : adapters)
    if (a->retention.at(site) == TN_RETAIN_INPUT || a->retention.at(site) == TN_RETAIN_ROWS) return true;
  return false;
}

bool Linear::trains() const { return trains_weight() || trains_components() || (bias && bias->trainable) || !adapters.empty(); }

void Linear::base_forward(Engine& engine, const Tensor& x, double alpha, double beta, const Tensor& y) const {
  if (identity) return engine.axpby(alpha, x, beta, y);
  if (lookup) return look_up(engine, x, alpha, beta, y);
  if (quantized && !weight)
    quantized->forward(engine, x, y, alpha, beta);
  else if (weight->displaced)
    displaced_forward(engine, x, alpha, beta, y);
  else
    engine.gemm(x, dense().transposed(), y, alpha, beta);
  if (bias) {
    if (alpha != 1) throw Error(TN_E_UNSUPPORTED, path + " has a bias, which a scaled base product would scale too");
    engine.bias_add(bias->seen(engine), y);
  }
}

void Linear::look_up(Engine& engine, const Tensor& x, double alpha, double beta, const Tensor& y) const {
  if (alpha == 1 && beta == 0) return quantized ? decode_found(engine, x, y) : engine.embedding(dense(), x, y);
  const Tensor rows = engine.empty(Category::kWorkspace, y.dtype(), y.shape(), y.ndim());
  look_up(engine, x, 1, 0, rows);
  engine.axpby(alpha, rows, beta, y);
}

void Linear::decode_found(Engine& engine, const Tensor& x, const Tensor& y) const {
  std::vector<int32_t> ids(static_cast<size_t>(x.count()));
  engine.download(x, ids.data());
  if (!engine.dry())  // whose ids mean nothing
    for (const int32_t id : ids)
      if (id < 0 || id >= m) throw Error(TN_E_ARGUMENT, path + " has " + std::to_string(m) + " rows, not one for the token " + std::to_string(id));
  quantized->decode_found(engine, ids, y);
}

void Linear::displaced_forward(Engine& engine, const Tensor& x, double alpha, double beta, const Tensor& y) const {
  const int64_t step = std::clamp<int64_t>(kDisplacedPanelBytes / (n * element_bytes(weight->value.dtype())), 1, m);
  const Tensor panel = engine.empty(Category::kWorkspace, weight->value.dtype(), {step, n});
  for (int64_t r = 0; r < m; r += step) {
    const int64_t end = std::min(r + step, m);
    const Tensor w = panel.rows(0, end - r);
    weight->displaced->read(engine, weight->uid, weight->value, r * n, w);
    engine.gemm(x, w.transposed(), y.columns(r, end), alpha, beta);
  }
}

void Linear::base_backward(Engine& engine, const Tensor& dy, double alpha, double beta, const Tensor& dx) const {
  if (lookup) return;
  if (identity) return engine.axpby(alpha, dy, beta, dx);
  if (quantized && !weight)
    quantized->backward(engine, dy, dx, alpha, beta);
  else
    engine.gemm(dy, dense(), dx, alpha, beta);
}

void Linear::read_rows(Engine& engine, int64_t begin, int64_t end, const Tensor& out) const {
  if (quantized && !weight)
    quantized->decode_rows(engine, begin, end, out);
  else
    engine.axpby(1, dense().rows(begin, end), 0, out);
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

void Linear::forward(Engine& engine, const LinearCall& call, const Tensor& x, const Tensor& y, SavedLinear* saved) const {
  if (saved) saved->slots.resize(adapters.size());
  if (saved && (call.flags & TN_CALL_SAVE)) sample(engine, call, x, *saved);
  if (y) return forward_through(engine, call, adapters.size(), x, y, saved);
  for (size_t level = adapters.size(); level > 0; --level) forward_through(engine, call, level, x, y, saved);
}

void Linear::weight_gradient(Engine& engine, const LinearCall& call, const Tensor& dy, const Tensor& x, const SavedLinear* saved) const {
  const double accumulate = weight->open_gradient(engine);
  const RowSample* rows = saved ? saved->sample.get() : nullptr;
  if (rows && (weight->wgrad || weight->tapped))
    throw Error(TN_E_CONFLICT, path + " keeps a sample of its input's rows, and the optimizer needs all of them; drop the sampling adapter");
  if (const OwnWgrad* own = weight->wgrad) {
    if (!call.sample_begin || call.sample_begin->back() != x.dim(0))
      throw Error(TN_E_STATE, "the gradient of " + path + " is taken per sample, which needs all rows of a micro-batch together; drop --tiled-mlp and --tiled-loss");
    const tn_samples samples{sizeof(tn_samples), 0, static_cast<int64_t>(call.sample_begin->size()) - 1, call.sample_begin->data(), call.grad_scale};
    tn_estimate e{sizeof(tn_estimate)};
    check(own->api->estimate(own->self, engine.api(), engine.device(), weight->uid, x.dim(0), samples.n, &e), "planning a weight gradient");
    engine.with_workspace(e, "optimizer's weight gradient", [&](const tn_exec* exec) {
      return own->api->wgrad(own->self, exec, weight->uid, &samples, x.ref(), dy.ref(), accumulate, weight->gradient.ref());
    });
  } else if (rows && rows->index) {
    const Tensor picked = engine.empty(Category::kWorkspace, dy.dtype(), {rows->index.dim(0), m});
    engine.embedding(dy, rows->index, picked);  // rows of dy by index
    engine.gemm(picked.transposed(), rows->rows, weight->gradient, 1, accumulate);
  } else {
    engine.gemm(dy.transposed(), rows ? rows->rows : x, weight->gradient, 1, accumulate);
  }
  if (!weight->tapped) return;
  if (weight->tap_rows == 0) weight->tap_x = engine.zeros(Category::kGradients, kF32, {n}), weight->tap_dy = engine.zeros(Category::kGradients, kF32, {m});
  engine.bias_backward(x, weight->tap_x), engine.bias_backward(dy, weight->tap_dy);
  weight->tap_rows += x.dim(0);
}

void Linear::backward(Engine& engine, const LinearCall& call, const Tensor& dy, const Tensor& x, const Tensor* dx, double beta,
                      SavedLinear* saved) const {
  if (trains_weight() && lookup)
    engine.embedding_backward(x, dy, weight->open_zeroed_gradient(engine));
  else if (trains_weight())
    weight_gradient(engine, call, dy, x, saved);
  if (trains_components()) quantized->component_gradient(engine, x, dy);
  if (bias && bias->trainable) engine.bias_backward(dy, bias->open_zeroed_gradient(engine));
  backward_through(engine, call, adapters.size(), dy, x, dx, beta, saved);
}

}  // namespace tenon::trainer
