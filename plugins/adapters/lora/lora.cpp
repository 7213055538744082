// LoRA: Low-Rank Adaptation of Large Language Models (Hu et al. 2021), with rank-stabilised scaling (Kalajdzievski
// 2023).
//
//   U = dropout(X) A^T,  Y = X W^T + s U B^T (+ s b)
//   dB = s dY^T U,  dU = s dY B,  dA = dU^T dropout(X),  dX = dY W + mask/(1-p) ⊙ (dU A)
//
// and on the embedding, whose input are token ids: lookup.h.
#include <algorithm>
#include <cstring>
#include <vector>

#include "combine.h"
#include "lookup.h"
#include "sdk/adapter.h"
#include "sdk/adapter/bias.h"
#include "sdk/adapter/call.h"
#include "sdk/adapter/declare.h"
#include "sdk/adapter/initial.h"
#include "sdk/adapter/lora_config.h"
#include "sdk/adapter/low_rank.h"
#include "sdk/adapter/sites.h"
#include "sdk/adapter/targets.h"

namespace tenon::lora {
namespace {

using namespace tenon::sdk;

constexpr tn_hyper_info kBias = flag("lora_bias", "false", "a bias on the up-projection");
constexpr const tn_hyper_info* kHypers[] = {&kLoraRank,    &kLoraAlpha,      &kLoraDropout, &kRsLora,
                                            &kLoraTargets, &kExcludeModules, &kModulesToSave, &kLoraInit,    &kBias};

LoraConfig config_from(const tn_host* host, const Hypers& hypers, const char* json) {
  if (json) return lora_config_from(json, host, false);
  LoraConfig c = lora_config_from(hypers);
  c.lora_bias = hypers.flag("lora_bias");
  read_modules_to_save(hypers, c);
  return c;
}

class Lora {
 public:
  static constexpr uint32_t kCaps = TN_ADAPTER_MERGES;

  Lora(const tn_host* host, const Hypers& hypers, const char* config_json)
      : host_(host),
        config_(config_from(host, hypers, config_json)),
        targets_(config_.selection),
        dropout_(config_.dropout) {}

  void supports(const tn_query& q) {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16)) fail(TN_E_UNSUPPORTED, "lora computes in f32 or bf16");
  }

  void bind(const tn_site* const* sites, uint64_t n, const tn_adapter_sink& sink) {
    uint64_t wasteful = 0;
    for (uint64_t i = 0; i < n; ++i) {
      const tn_site& s = *sites[i];
      if ((s.place != TN_PLACE_LINEAR && s.place != TN_PLACE_LOOKUP) || !targets_.takes(s)) continue;
      refuse_tying(config_, s);
      const int64_t r = targets_.rank_of(s.path, config_.r);
      const double scale = config_.scale(r, targets_.alpha_of(s.path, config_.alpha));
      if (r > std::min(s.m, s.n)) ++wasteful;
      if (s.place == TN_PLACE_LOOKUP) {
        bind_lookup(s, r, scale, sink);
        continue;
      }
      sites_.add(s.id, {s.m, s.n, r, scale});
      check(sink.site(sink.self, s.id, TN_RETAIN_ROWS));
      declare(sink, s, {Kind::kA, r}, {r, s.n}, "lora_A.weight");
      declare(sink, s, {Kind::kB, r}, {s.m, r}, "lora_B.weight");
      if (config_.lora_bias) declare(sink, s, {Kind::kBias, r}, {s.m, 0}, "lora_B.bias");
    }
    if (sites_.empty() && lookups_.empty()) targets_.none_taken(sites, n);
    train_modules_to_save(config_, targets_, sites, n, sink);
    if (wasteful)
      host_->log(host_, TN_LOG_WARNING,
                 ("lora: the rank is larger than the smaller side of " + std::to_string(wasteful) +
                  " linears, where a smaller one can express as much")
                     .c_str());
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t site, int64_t rows, tn_dtype compute,
                bool backward, tn_estimate& out) {
    if (const Lookup* l = lookup_at(site)) return estimate(api, device, *l, rows, compute, backward, out);
    const LowRank& f = at(site);
    Scratch s(api, device, compute);
    const Matrix x = Matrix::dense(nullptr, compute, rows, f.n), y = Matrix::dense(nullptr, compute, rows, f.m);
    if (backward)
      f.backward(s, nullptr, dropout_, y, &x);
    else
      f.forward(s, nullptr, dropout_, x, &y);
    out.flops = s.flops();
    if (!backward) f.merge(s, f.a(nullptr), f.b(nullptr), 0, Matrix::dense(nullptr, std::min(rows, f.m), f.n));
    out.saved_bytes = backward ? 0 : f.saved_bytes(rows, compute);
    out.state_bytes = static_cast<uint64_t>(f.r * (f.m + f.n) + (config_.lora_bias ? f.m : 0)) * 4;
    out.workspace_bytes = aligned(s.peak());
    // Forward adds to y what it makes of x; backward reads dy and x and adds to dx.
    const int64_t moved = backward ? f.m + 3 * f.n : 2 * f.m + f.n;
    out.bytes_moved = static_cast<double>(rows) * static_cast<double>(moved) * compute.bits / 8;
  }

  void init_param(const tn_exec* exec, uint32_t param, const tn_base_linear*, const tn_rng& rng, tn_tensor& value) {
    if (param >= params_.size()) fail(TN_E_ARGUMENT, "lora has no parameter " + std::to_string(param));
    const Param p = params_[param];
    float* w = contiguous<float>(&value, "a LoRA factor");
    if (p.kind == Kind::kLookupA || p.kind == Kind::kLookupB) {  // as an embedding starts, and zeros for A
      if (p.kind == Kind::kLookupA && config_.init != LoraInit::kBothKaiming) return fill_constant(exec, 0, w, count(value));
      return fill_normal(exec, rng, 1, w, count(value));
    }
    init_factor(exec, rng, config_.init, p.kind == Kind::kA, p.rank, value.shape[1], w, count(value));
  }

  void forward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& x,
               tn_tensor* y) {
    if (const Lookup* l = lookup_at(site)) return forward(*l, call, base, x, y);
    const LowRank& f = at(site);
    forward_beside(call, base, x, y, [&](Scratch& s, const Matrix& in, const Matrix* out) {
      f.forward(s, &call, dropout_, in, out);
      if (y && config_.lora_bias) add_bias(*call.exec, *call.params[2]->value, f.scale * call.scale, *y);
    });
  }

  void backward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& dy,
                double beta, tn_tensor* dx) {
    if (const Lookup* l = lookup_at(site)) {
      check(base.backward(base.self, &dy, 1, beta, nullptr));
      Scratch s(*call.exec, dy.dtype);
      if (dy.shape[0] > 0) l->backward(s, &call, Matrix::of(dy));
      return;
    }
    const LowRank& f = at(site);
    backward_beside(call, base, dy, beta, dx, [&](Scratch& s, const Matrix& d, const Matrix* to) {
      f.backward(s, &call, dropout_, d, to);
      if (config_.lora_bias && call.params[2]->grad) bias_gradient(*call.exec, dy, f.scale * call.scale, *call.params[2]->grad);
    });
  }

  void merge_rows(const tn_exec* exec, uint32_t site, const tn_param_view* const* params, uint64_t, int64_t begin,
                  int64_t, tn_tensor& w) {
    if (config_.lora_bias)
      fail(TN_E_UNSUPPORTED,
           "an adapter with lora_bias cannot be merged, since the base linear has no bias to take it");
    Scratch s(*exec, kF32);
    if (const Lookup* l = lookup_at(site)) return l->merge(s, Matrix::of(*params[0]->value), Matrix::of(*params[1]->value), begin, Matrix::of(w));
    at(site).merge(s, Matrix::of(*params[0]->value), Matrix::of(*params[1]->value), begin, Matrix::of(w));
  }

  void write_config(const tn_sink& sink) {
    const std::string text = to_json(config_);
    check(sink.write(sink.self, text.data(), text.size()));
  }

 private:
  enum class Kind { kA, kB, kBias, kLookupA, kLookupB };
  struct Param {
    Kind kind;
    int64_t rank;
  };

  const LowRank& at(uint32_t site) const { return sites_.at(site); }

  const Lookup* lookup_at(uint32_t site) const {
    const auto it = std::find_if(lookups_.begin(), lookups_.end(), [&](const auto& l) { return l.first == site; });
    return it == lookups_.end() ? nullptr : &it->second;
  }

  void bind_lookup(const tn_site& s, int64_t r, double scale, const tn_adapter_sink& sink) {
    if (config_.lora_bias) fail(TN_E_UNSUPPORTED, std::string(s.path) + " is an embedding, for which lora_bias is not offered; leave one of the two out");
    lookups_.emplace_back(s.id, Lookup(s.m, s.n, r, scale));
    check(sink.site(sink.self, s.id, TN_RETAIN_INPUT));
    declare(sink, s, {Kind::kLookupA, r}, {r, s.m}, "lora_embedding_A");
    declare(sink, s, {Kind::kLookupB, r}, {s.n, r}, "lora_embedding_B");
  }

  static void estimate(const tn_device_api* api, tn_device* device, const Lookup& l, int64_t rows, tn_dtype compute, bool backward, tn_estimate& out) {
    Scratch s(api, device, compute);
    const LowRank& f = l.factors();
    const Matrix y = Matrix::dense(nullptr, compute, rows, f.m);
    if (backward)
      l.backward(s, nullptr, y);
    else
      l.forward(s, nullptr, nullptr, rows, &y);
    out.flops = s.flops();
    if (!backward) l.merge(s, f.a(nullptr), f.b(nullptr), 0, Matrix::dense(nullptr, std::min(rows, f.n), f.m));
    out.saved_bytes = 0;
    out.state_bytes = static_cast<uint64_t>(f.r * (f.m + f.n)) * 4;
    out.workspace_bytes = aligned(s.peak());
    out.bytes_moved = static_cast<double>(rows) * static_cast<double>(2 * f.m + f.r) * compute.bits / 8;
  }

  static void forward(const Lookup& l, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& x, tn_tensor* y) {
    if (y) check(base.forward(base.self, &x, 1, 0, y));
    if (x.shape[0] == 0) return;
    Scratch s(*call.exec, y ? y->dtype : kF32);
    const Matrix out = y ? Matrix::of(*y) : Matrix();
    l.forward(s, &call, contiguous<int32_t>(&x, "the token ids"), x.shape[0], y ? &out : nullptr);
  }

  void declare(const tn_adapter_sink& sink, const tn_site& site, Param param, std::array<int64_t, 2> shape,
               const char* tensor) {
    declare_param(sink, static_cast<uint32_t>(params_.size()), static_cast<int32_t>(site.id), kTrained, shape,
                  peft_key(site, tensor));
    params_.push_back(param);
  }

  void add_bias(const tn_exec& exec, const tn_tensor& bias, double scale, tn_tensor& y) const {
    sdk::add_bias(&exec, contiguous<float>(&bias, "lora_B.bias"), Matrix::of(y), static_cast<float>(scale));
  }
  void bias_gradient(const tn_exec& exec, const tn_tensor& dy, double scale, tn_tensor& grad) const {
    add_bias_gradient(&exec, Matrix::of(dy), contiguous<float>(&grad, "the gradient of lora_B.bias"), scale);
  }

  const tn_host* host_;
  LoraConfig config_;
  Targets targets_;
  Dropout dropout_;
  Sites<LowRank> sites_{"lora"};
  std::vector<std::pair<uint32_t, Lookup>> lookups_;  // by site: a model has one or two; clang 15 crashes on a map of them
  std::vector<Param> params_;  // by id
};

constexpr tn_adapter_api kApi = adapter_api<Lora>();
const void* extension(const char* id) {
  return std::strcmp(id, TN_EXT_COMBINE) == 0 ? &kCombine : nullptr;
}

const tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "lora", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::lora

TENON_PLUGIN(tenon::lora::kPlugin)
