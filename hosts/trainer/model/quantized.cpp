#include "hosts/trainer/model/quantized.h"

#include <algorithm>
#include <list>

#include "core/error.h"
#include "core/plugins/answer.h"
#include "hosts/trainer/engine/views.h"

namespace tenon::trainer {
namespace {

// A decoded panel stays in the last-level cache between decoding and multiplying.
constexpr int64_t kPanelBytes = 8 << 20;

int32_t declare(void* self, const tn_component* c) {
  return answer([&] {
    if (c->ndim < 0 || c->ndim > 4) throw Error(TN_E_ARGUMENT, std::string("the quantizer planned the component ") + c->name + " in " + std::to_string(c->ndim) + " axes; a tensor has at most 4");
    PlannedComponent& p = static_cast<std::vector<PlannedComponent>*>(self)->emplace_back();
    p.name = c->name, p.dtype = c->dtype, p.ndim = c->ndim;
    std::copy(c->shape, c->shape + 4, p.shape);
    p.trainable = (c->flags & TN_COMPONENT_TRAINABLE) && c->dtype == kF32;
    p.segmented = (c->flags & TN_COMPONENT_SEGMENTED) && c->ndim >= 2;
  });
}

}  // namespace

int64_t PlannedComponent::bytes() const {
  int64_t n = element_bytes(dtype);
  for (int i = 0; i < ndim; ++i) n *= shape[i];
  return n;
}

std::vector<PlannedComponent> plan_components(const Quantizer& quantizer, const tn_target& target) {
  std::vector<PlannedComponent> planned;
  const tn_component_sink sink{sizeof(tn_component_sink), 0, &planned, declare};
  check(quantizer.api->plan(quantizer.self, &target, &sink), "planning a quantized weight");
  return planned;
}

SegmentSizes::SegmentSizes(const std::vector<PlannedComponent>& planned) {
  bool any = false;
  for (const PlannedComponent& c : planned) {
    if (!c.segmented) {
      fixed += static_cast<uint64_t>(c.bytes());
      continue;
    }
    if (any && c.shape[0] != count) throw Error(TN_E_UNSUPPORTED, "the quantizer plans components with different numbers of segments for one weight");
    any = true, count = c.shape[0];
    each += static_cast<uint64_t>(c.shape[0] > 0 ? c.bytes() / c.shape[0] : 0);
  }
  if (any && count < 1) throw Error(TN_E_UNSUPPORTED, "the quantizer plans a weight without any segment");
  if (!any) each = fixed, fixed = 0;
}

QuantizedWeight::QuantizedWeight(Engine& engine, const Quantizer& quantizer, std::string name, uint32_t uid, uint32_t role, int32_t block,
                                 int64_t m, int64_t n, int64_t segments)
    : quantizer_(quantizer), name_(std::make_shared<const std::string>(std::move(name))) {
  target_ = {sizeof(tn_target), TN_SITE_WEIGHT, role, uid, block, 2, engine.compute(), 0, {m, n, 0, 0}, name_->c_str()};
  std::vector<PlannedComponent> planned = plan_components(quantizer_, target_);
  sizes_ = SegmentSizes(planned);
  if (segments > 0) sizes_.count = std::min(sizes_.count, segments);
  for (PlannedComponent& c : planned) {
    if (c.segmented) c.shape[0] = sizes_.count;
    components_.push_back(engine.empty(Category::kWeights, c.dtype, c.shape, c.ndim));
    names_.push_back(std::move(c.name));
    trainable_.push_back(c.trainable), segmented_.push_back(c.segmented);
  }
  parameters_.resize(components_.size());
}

void QuantizedWeight::keep_segments(Engine& engine, int64_t count, const Tensor& arena, int64_t& offset) {
  count = std::min(count, sizes_.count);
  for (size_t i = 0; i < components_.size(); ++i) {
    if (!segmented_[i]) continue;
    const Tensor from = components_[i].rows(0, count);
    const Tensor to = arena.within(offset, from.dtype(), from.shape(), from.ndim());
    engine.copy(from, to);
    offset += (to.bytes() + kPlaces - 1) / kPlaces * kPlaces;
    engine.synchronize();
    components_[i] = to;
  }
  sizes_.count = count, shown_ = 0;
}

std::vector<Tensor> QuantizedWeight::seen(Engine& engine) const {
  std::vector<Tensor> all = components_;
  for (size_t i = 0; i < all.size(); ++i)
    if (parameters_[i])
      all[i] = parameters_[i]->seen(engine);
    else if (segmented_[i] && shown_ > 0 && shown_ < sizes_.count)
      all[i] = all[i].rows(0, shown_);
  return all;
}

void QuantizedWeight::encode(Engine& engine, const Tensor& source) {
  tn_estimate e{sizeof(tn_estimate)};
  check(quantizer_.api->estimate(quantizer_.self, engine.api(), engine.device(), &target_, TN_QUANTIZER_ENCODE, source.count(), &e), "planning an encoding");
  const tn_rng rng{0, target_.uid, 0};
  const Views views(components_);
  engine.with_workspace(e, "encode", [&](const tn_exec* x) {
    return quantizer_.api->encode(quantizer_.self, x, &target_, source.ref(), views.data(), &rng);
  });
}

void QuantizedWeight::encode_calibrated(Engine& engine, const Tensor& source, const Tensor& statistic, int64_t tokens) {
  tn_estimate e{sizeof(tn_estimate)};
  check(quantizer_.calibrate->estimate(quantizer_.self, engine.api(), engine.device(), &target_, &e), "planning a calibrated encoding");
  const tn_rng rng{0, target_.uid, 0};
  const Views views(components_);
  engine.with_workspace(e, "calibrated encode", [&](const tn_exec* x) {
    return quantizer_.calibrate->encode(quantizer_.self, x, &target_, source.ref(), statistic.ref(), tokens, views.data(), &rng);
  });
}

bool QuantizedWeight::trains() const {
  return quantizer_.trainable && quantizer_.trainable->component_gradient &&
         std::any_of(parameters_.begin(), parameters_.end(), [](const Parameter* p) { return p && p->trainable; });
}

void QuantizedWeight::component_gradient(Engine& engine, const Tensor& x, const Tensor& dy) const {
  std::vector<Tensor> gradients;
  for (Parameter* p : parameters_) gradients.push_back(p && p->trainable ? p->open_zeroed_gradient(engine) : Tensor());
  const Views views(seen(engine)), targets(gradients);
  // dW by panels of rows, so that a whole one never exists.
  const int64_t step = std::clamp<int64_t>(kPanelBytes / (n() * 4), 1, m());
  const Tensor panel = engine.empty(Category::kWorkspace, kF32, {step, n()});
  for (int64_t r = 0; r < m(); r += step) {
    const int64_t end = std::min(r + step, m());
    const Tensor dw = panel.rows(0, end - r);
    engine.gemm(dy.columns(r, end).transposed(), x, dw);
    engine.with_workspace(0, "gradient of components", [&](const tn_exec* exec) {
      return quantizer_.trainable->component_gradient(quantizer_.self, exec, &target_, views.data(), dw.ref(), r, end, targets.data());
    });
  }
}

void QuantizedWeight::decode_rows(Engine& engine, int64_t begin, int64_t end, const Tensor& out) const {
  tn_estimate e{sizeof(tn_estimate)};
  check(quantizer_.api->estimate(quantizer_.self, engine.api(), engine.device(), &target_, TN_QUANTIZER_DECODE, (end - begin) * n(), &e), "planning a decoding");
  const Views views(seen(engine));
  engine.with_workspace(e, "decode", [&](const tn_exec* x) {
    return quantizer_.api->decode(quantizer_.self, x, &target_, views.data(), begin * n(), end * n(), out.ref());
  });
}

// One plan and one workspace serve every row.
void QuantizedWeight::decode_found(Engine& engine, const std::vector<int32_t>& rows, const Tensor& out) const {
  tn_estimate e{sizeof(tn_estimate)};
  check(quantizer_.api->estimate(quantizer_.self, engine.api(), engine.device(), &target_, TN_QUANTIZER_DECODE, n(), &e), "planning a decoding");
  const Views views(seen(engine));
  const double times = static_cast<double>(rows.size());
  const Cost cost(times * e.bytes_moved, times * e.flops);
  engine.with_workspace(e.workspace_bytes, "decode", [&](const tn_exec* x) {
    int32_t status = TN_OK;
    for (size_t i = 0; i < rows.size() && status >= 0; ++i) {
      const int64_t row = static_cast<int64_t>(i);
      status = quantizer_.api->decode(quantizer_.self, x, &target_, views.data(), rows[i] * n(), (rows[i] + int64_t{1}) * n(), out.rows(row, row + 1).ref());
    }
    return status;
  }, cost);
}

bool QuantizedWeight::fused(Engine& engine, uint32_t op, Product product, const Tensor& in, const Tensor& out, double alpha, double beta) const {
  if (!product) return false;
  tn_estimate e{sizeof(tn_estimate)};
  const int32_t status = quantizer_.api->estimate(quantizer_.self, engine.api(), engine.device(), &target_, op, in.dim(0), &e);
  if (status == TN_E_UNSUPPORTED) return false;
  check(status, "planning a fused product");
  const Views views(seen(engine));
  engine.with_workspace(e, op == TN_QUANTIZER_LINEAR ? "quantized linear" : "quantized linear backward", [&](const tn_exec* exec) {
    return product(quantizer_.self, exec, &target_, views.data(), in.ref(), alpha, beta, out.ref());
  });
  return true;
}

bool QuantizedWeight::forward_together(Engine& engine, const std::vector<const QuantizedWeight*>& weights, const Tensor& x, const std::vector<Tensor>& y) {
  const Quantizer& q = weights.at(0)->quantizer_;
  std::vector<const tn_target*> targets;
  for (const QuantizedWeight* w : weights) {
    if (!q.linears || w->quantizer_.self != q.self || w->n() != weights[0]->n()) return false;
    targets.push_back(&w->target_);
  }
  tn_estimate e{sizeof(tn_estimate)};
  const int32_t status = q.linears->estimate(q.self, engine.api(), engine.device(), targets.data(), targets.size(), x.dim(0), &e);
  if (status == TN_E_UNSUPPORTED) return false;
  check(status, "planning fused products");
  std::list<Views> views;
  std::vector<tn_tensor* const*> components;
  for (const QuantizedWeight* w : weights) components.push_back(views.emplace_back(w->seen(engine)).data());
  const Views results(y);
  engine.with_workspace(e, "quantized linear", [&](const tn_exec* exec) {
    return q.linears->run(q.self, exec, targets.data(), components.data(), targets.size(), x.ref(), results.data());
  });
  return true;
}

void QuantizedWeight::for_each_panel(Engine& engine, const std::function<void(int64_t, int64_t, const Tensor&)>& use) const {
  const int64_t step = std::clamp<int64_t>(kPanelBytes / (n() * 4), 1, m());
  const Tensor panel = engine.empty(Category::kCodec, engine.compute(), {step, n()});
  for (int64_t r = 0; r < m(); r += step) {
    const int64_t end = std::min(r + step, m());
    const Tensor w = panel.rows(0, end - r);
    decode_rows(engine, r, end, w);
    use(r, end, w);
  }
}

void QuantizedWeight::forward(Engine& engine, const Tensor& x, const Tensor& y, double alpha, double beta) const {
  if (fused(engine, TN_QUANTIZER_LINEAR, quantizer_.api->linear, x, y, alpha, beta)) return;
  for_each_panel(engine, [&](int64_t begin, int64_t end, const Tensor& w) { engine.gemm(x, w.transposed(), y.columns(begin, end), alpha, beta); });
}

void QuantizedWeight::backward(Engine& engine, const Tensor& dy, const Tensor& dx, double alpha, double beta) const {
  if (fused(engine, TN_QUANTIZER_LINEAR_BACKWARD, quantizer_.api->linear_backward, dy, dx, alpha, beta)) return;
  for_each_panel(engine, [&](int64_t begin, int64_t end, const Tensor& w) {
    engine.gemm(dy.columns(begin, end), w, dx, alpha, begin == 0 ? beta : 1.0);
  });
}

}  // namespace tenon::trainer
