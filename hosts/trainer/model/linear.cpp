// A linear's own product, dense or quantized, and its gradients. The adapters around it are in linear_adapters.cpp.
#include "hosts/trainer/model/linear.h"

#include <algorithm>

#include "core/error.h"

namespace tenon::trainer {

uint32_t Linear::flags() const {
  return (quantized ? uint32_t{TN_LINEAR_QUANTIZED} : 0u) | (tied ? uint32_t{TN_LINEAR_TIED} : 0u) | (owner ? uint32_t{TN_LINEAR_OWNED} : 0u) |
         (adapters.empty() ? 0u : uint32_t{TN_LINEAR_ADAPTED});
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

void Linear::forward(Engine& engine, const LinearCall& call, const Tensor& x, const Tensor& y, SavedLinear* saved) const {
  if (saved) saved->slots.resize(adapters.size());
  if (saved && (call.flags & TN_CALL_SAVE)) sample(engine, call, x, *saved);
  if (y) return forward_through(engine, call, adapters.size(), x, y, saved);
  for (size_t level = adapters.size(); level > 0; --level) forward_through(engine, call, level, x, y, saved);
}

void Linear::forward_all(Engine& engine, const LinearCall& call, const std::vector<const Linear*>& linears, const Tensor& x, const std::vector<Tensor>& y,
                         const std::vector<SavedLinear*>& saved) {
  std::vector<const QuantizedWeight*> weights;
  for (const Linear* l : linears)
    if (l->quantized && !l->weight && l->adapters.empty()) weights.push_back(&*l->quantized);
  if (weights.size() == linears.size() && QuantizedWeight::forward_together(engine, weights, x, y)) {
    for (size_t i = 0; i < linears.size(); ++i)
      if (linears[i]->bias) engine.bias_add(linears[i]->bias->seen(engine), y[i]);
    return;
  }
  for (size_t i = 0; i < linears.size(); ++i) linears[i]->forward(engine, call, x, y[i], saved[i]);
}

void Linear::weight_gradient(Engine& engine, const LinearCall& call, const Tensor& dy, const Tensor& x, const SavedLinear* saved) const {
  const double accumulate = weight->open_gradient(engine);
  const RowSample* rows = saved ? saved->sample.get() : nullptr;
  if (rows && (weight->wgrad || weight->tapped))
    throw Error(TN_E_CONFLICT, path + " keeps a sample of its input's rows, and the optimizer needs all of them; drop the sampling adapter");
  if (const OwnWgrad* own = weight->wgrad) {
    if (!call.sample_begin || call.sample_begin->back() != x.dim(0))
      throw Error(TN_E_STATE, "the gradient of " + path + " is taken per sample, which needs all rows of a micro-batch together; drop --tiled-mlp");
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
