#include "hosts/trainer/model/quantized.h"

#include <algorithm>

#include "core/error.h"
#include "hosts/trainer/engine/views.h"

namespace tenon::trainer {
namespace {

// A decoded panel stays in the last-level cache between decoding and multiplying.
constexpr int64_t kPanelBytes = 8 << 20;

struct ComponentList {
  Engine* engine;
  std::vector<Tensor>* tensors;
  std::vector<std::string>* names;
  std::vector<bool>* trainable;
};

int32_t declare(void* self, const tn_component* c) {
  auto& list = *static_cast<ComponentList*>(self);
  list.tensors->push_back(list.engine->empty(Category::kWeights, c->dtype, c->shape, c->ndim));
  list.names->push_back(c->name);
  list.trainable->push_back((c->flags & TN_COMPONENT_TRAINABLE) && c->dtype == kF32);
  return TN_OK;
}

}  // namespace

QuantizedWeight::QuantizedWeight(Engine& engine, const Quantizer& quantizer, std::string name, uint32_t uid, uint32_t role, int32_t block,
                                 int64_t m, int64_t n)
    : quantizer_(quantizer), name_(std::move(name)) {
  target_ = {sizeof(tn_target), TN_SITE_WEIGHT, role, uid, block, 2, engine.compute(), 0, {m, n, 0, 0}, name_.c_str()};
  ComponentList list{&engine, &components_, &names_, &trainable_};
  const tn_component_sink sink{sizeof(tn_component_sink), 0, &list, declare};
  check(quantizer_.api->plan(quantizer_.self, &target_, &sink), "planning a quantized weight");
  parameters_.resize(components_.size());
}

std::vector<Tensor> QuantizedWeight::seen(Engine& engine) const {
  std::vector<Tensor> all = components_;
  for (size_t i = 0; i < all.size(); ++i)
    if (parameters_[i]) all[i] = parameters_[i]->seen(engine);
  return all;
}

void QuantizedWeight::encode(Engine& engine, const Tensor& source) {
  target_.name = name_.c_str();
  tn_estimate e{sizeof(tn_estimate)};
  check(quantizer_.api->estimate(quantizer_.self, engine.api(), engine.device(), &target_, TN_QUANTIZER_ENCODE, source.count(), &e), "planning an encoding");
  const tn_rng rng{0, target_.uid, 0};
  const Views views(components_);
  engine.with_workspace(e, "encode", [&](const tn_exec* x) {
    return quantizer_.api->encode(quantizer_.self, x, &target_, source.ref(), views.data(), &rng);
  });
}

void QuantizedWeight::encode_calibrated(Engine& engine, const Tensor& source, const Tensor& gram, int64_t tokens) {
  target_.name = name_.c_str();
  tn_estimate e{sizeof(tn_estimate)};
  check(quantizer_.calibrate->estimate(quantizer_.self, engine.api(), engine.device(), &target_, &e), "planning a calibrated encoding");
  const tn_rng rng{0, target_.uid, 0};
  const Views views(components_);
  engine.with_workspace(e, "calibrated encode", [&](const tn_exec* x) {
    return quantizer_.calibrate->encode(quantizer_.self, x, &target_, source.ref(), gram.ref(), tokens, views.data(), &rng);
  });
}

void QuantizedWeight::decode_rows(Engine& engine, int64_t begin, int64_t end, const Tensor& out) const {
  tn_target target = target_;
  target.name = name_.c_str();
  tn_estimate e{sizeof(tn_estimate)};
  check(quantizer_.api->estimate(quantizer_.self, engine.api(), engine.device(), &target, TN_QUANTIZER_DECODE, (end - begin) * n(), &e), "planning a decoding");
  const std::vector<Tensor> now = seen(engine);
  const Views views(now);
  engine.with_workspace(e, "decode", [&](const tn_exec* x) {
    return quantizer_.api->decode(quantizer_.self, x, &target, views.data(), begin * n(), end * n(), out.ref());
  });
}

bool QuantizedWeight::fused(Engine& engine, uint32_t op, Product product, const Tensor& in, const Tensor& out, double alpha, double beta) const {
  if (!product) return false;
  tn_target target = target_;
  target.name = name_.c_str();
  tn_estimate e{sizeof(tn_estimate)};
  const int32_t status = quantizer_.api->estimate(quantizer_.self, engine.api(), engine.device(), &target, op, in.dim(0), &e);
  if (status == TN_E_UNSUPPORTED) return false;
  check(status, "planning a fused product");
  const std::vector<Tensor> now = seen(engine);
  const Views views(now);
  engine.with_workspace(e, op == TN_QUANTIZER_LINEAR ? "quantized linear" : "quantized linear backward", [&](const tn_exec* exec) {
    return product(quantizer_.self, exec, &target, views.data(), in.ref(), alpha, beta, out.ref());
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
