// Codecs at their site: bytes that must move, against what a copy of the device moves.
#include <memory>

#include "core/error.h"
#include "hosts/bench/bench.h"
#include "hosts/trainer/engine/views.h"

namespace tenon::bench {
namespace {

using trainer::kBF16;
using trainer::kF32;
using trainer::operator==;
using trainer::Tensor;

struct Collected {
  trainer::Engine* engine;
  std::vector<Tensor> tensors;
  static int32_t declare(void* self, const tn_component* c) {
    auto& list = *static_cast<Collected*>(self);
    list.tensors.push_back(list.engine->empty(Category::kCodec, c->dtype, c->shape, c->ndim));
    return TN_OK;
  }
  tn_component_sink sink() { return {sizeof(tn_component_sink), 0, this, declare}; }
  double bytes() const {
    double n = 0;
    for (const Tensor& t : tensors) n += static_cast<double>(t.bytes());
    return n;
  }
};

}  // namespace

Figures codec(const Catalog& catalog, const Setting& setting) {
  trainer::MixRequest request;
  request.device = setting.device, request.optimizer = "adamw", request.states = setting.states, request.activations = setting.activations;
  if (setting.states.empty() && setting.activations.empty())
    throw Error(TN_E_ARGUMENT, "say which codec to measure, with --states SPEC or --activations SPEC");
  const trainer::Runtime runtime(catalog, request);
  const auto set = runtime.instantiate();
  const int64_t rows = setting.quick ? 64 : 2048, channels = 4096;
  std::vector<std::unique_ptr<trainer::Engine>> engines;
  std::vector<std::unique_ptr<Collected>> parts;
  std::vector<Action> actions;  // hold tensors, which go back to their engine
  std::vector<Tensor> tensors;
  const tn_rng rng{7, 1, 1};
  for (const auto& [dtype, name] : {std::pair{kF32, "f32"}, std::pair{kBF16, "bf16"}}) {
    engines.push_back(runtime.engine(dtype, 0, false));
    trainer::Engine* const e = engines.back().get();
    const Tensor wide = e->empty(Category::kActivations, kF32, {rows, channels}), x = e->empty(Category::kActivations, dtype, {rows, channels}),
                 y = e->empty(Category::kActivations, dtype, {rows, channels});
    e->fill_normal(wide, 1, {1, 1, 0});
    e->axpby(1, wide, 0, x);
    e->axpby(1, wide, 0, y);
    const double bytes = static_cast<double>(x.bytes());
    actions.push_back({std::string("copy_") + name + "_gigabytes_per_second", 2 * bytes, 1e9, [=] { e->copy(x, y), e->synchronize(); }});
    for (const auto& [site, codec] : {std::pair{TN_SITE_OPTIMIZER_STATE, set->techniques.states}, std::pair{TN_SITE_ACTIVATION, set->techniques.activations}}) {
      if (!codec || (site == TN_SITE_OPTIMIZER_STATE && !(dtype == kF32))) continue;
      const trainer::SiteCodec c = *codec;
      const tn_target target{sizeof(tn_target), static_cast<uint32_t>(site), 0, 1, 0, 2, dtype, 0, {rows, channels, 0, 0}, "bench"};
      const tn_activation what{sizeof(tn_activation), TN_ACTIVATION_NORM_INPUT, 0, 0, rows, channels, 0, dtype, 0};
      const bool extension = site == TN_SITE_ACTIVATION && c.activation;
      Collected* const token = parts.emplace_back(std::make_unique<Collected>(Collected{e, {}})).get();
      Collected* const kept = parts.emplace_back(std::make_unique<Collected>(Collected{e, {}})).get();
      const tn_component_sink to_token = token->sink(), to_kept = kept->sink();
      trainer::check(extension ? c.activation->token(c.self, &what, &to_token) : c.api->plan(c.self, &target, &to_token), "planning a codec");
      if (extension && c.activation->statistics) trainer::check(c.activation->statistics(c.self, &what, &to_kept), "planning a codec");
      for (const Tensor& t : kept->tensors) e->zero(t);
      const auto workspace = [=](uint32_t op) {
        tn_estimate estimate{sizeof(tn_estimate)};
        trainer::check(extension ? c.activation->estimate(c.self, e->api(), e->device(), &what, op, &estimate)
                                 : c.api->estimate(c.self, e->api(), e->device(), &target, op, x.count(), &estimate),
                       "planning a codec");
        return estimate;
      };
      const tn_estimate encoding = workspace(TN_QUANTIZER_ENCODE), decoding = workspace(TN_QUANTIZER_DECODE);
      const std::string label = std::string(site == TN_SITE_ACTIVATION ? "activation_" : "state_") + name;
      actions.push_back({label + "_encode_gigabytes_per_second", encoding.bytes_moved, 1e9, [=] {
                           const trainer::Views views(token->tensors), statistics(kept->tensors);
                           e->with_workspace(encoding.workspace_bytes, "encode", [&](const tn_exec* exec) {
                             return extension ? c.activation->save(c.self, exec, &what, x.ref(), statistics.data(), views.data(), &rng)
                                              : c.api->encode(c.self, exec, &target, x.ref(), views.data(), &rng);
                           });
                           e->synchronize();
                         }});
      actions.push_back({label + "_decode_gigabytes_per_second", decoding.bytes_moved, 1e9, [=] {
                           const trainer::Views views(token->tensors);
                           e->with_workspace(decoding.workspace_bytes, "decode", [&](const tn_exec* exec) {
                             return extension ? c.activation->restore(c.self, exec, &what, views.data(), y.ref())
                                              : c.api->decode(c.self, exec, &target, views.data(), 0, y.count(), y.ref());
                           });
                           e->synchronize();
                         }});
    }
  }
  Figures figures = measure(actions, setting.repeat);
  double copy = 0;
  for (const Figure& f : figures)
    if (f.key.starts_with("copy_")) copy = std::max(copy, f.value);
  for (size_t i = figures.size(); i-- > 0;)
    if (!figures[i].key.starts_with("copy_"))
      figures.push_back({figures[i].key.substr(0, figures[i].key.size() - std::string("_gigabytes_per_second").size()) + "_share_of_copy", figures[i].value / copy});
  return figures;
}

Figures quantized_linear(const Catalog& catalog, const Setting& setting) {
  if (setting.quantizer.empty()) throw Error(TN_E_ARGUMENT, "say which quantizer to measure, with --quantizer SPEC");
  trainer::MixRequest request;
  request.device = setting.device, request.quantizer = setting.quantizer;
  const trainer::Runtime runtime(catalog, request);
  const auto set = runtime.instantiate();
  const int64_t m = setting.quick ? 128 : 2048, n = setting.quick ? 256 : 2048;
  const auto engine = runtime.engine(kF32, 0, false);
  const Tensor w = engine->empty(Category::kWeights, kF32, {m, n});
  engine->fill_normal(w, 0.02, {1, 1, 0});
  trainer::QuantizedWeight weight(*engine, *set->techniques.quantizer, "weight", 1, TN_ROLE_UP, 0, m, n);
  weight.encode(*engine, w);
  std::vector<Action> actions;
  for (const int64_t rows : {1, 32, 256, 1024}) {
    const Tensor x = engine->empty(Category::kActivations, kF32, {rows, n}), y = engine->empty(Category::kActivations, kF32, {rows, m});
    engine->fill_normal(x, 1, {2, 1, 0});
    const double operations = 2.0 * static_cast<double>(rows * m * n);
    trainer::Engine* const e = engine.get();
    const trainer::QuantizedWeight* const q = &weight;
    actions.push_back({"dense_f32_rows" + std::to_string(rows) + "_gigaflops", operations, 1e9, [=] { e->gemm(x, w.transposed(), y), e->synchronize(); }});
    actions.push_back({"quantized_rows" + std::to_string(rows) + "_gigaflops", operations, 1e9, [=] { q->forward(*e, x, y, 1, 0), e->synchronize(); }});
  }
  Figures figures = measure(actions, setting.repeat);
  for (size_t i = 0, n_figures = figures.size(); i + 1 < n_figures; i += 2)
    figures.push_back({figures[i + 1].key.substr(0, figures[i + 1].key.size() - std::string("gigaflops").size()) + "over_dense_ratio", figures[i + 1].value / figures[i].value});
  return figures;
}

}  // namespace tenon::bench
