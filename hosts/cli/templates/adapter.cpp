// @NAME@: two thin factors beside each linear, as in LoRA (Hu et al. 2021). Replace forward, backward and the
// parameters by your method's.
//
//   U = X A^T,  Y = X W^T + s U B^T;   dB = s dY^T U,  dA = s (dY B)^T X,  dX = dY W + s (dY B) A
#include <map>

#include "sdk/adapter.h"
#include "sdk/adapter/declare.h"
#include "sdk/adapter/initial.h"
#include "sdk/adapter/lora_config.h"
#include "sdk/adapter/low_rank.h"
#include "sdk/adapter/targets.h"

namespace {

using namespace tenon::sdk;

constexpr const tn_hyper_info* kHypers[] = {&kLoraRank,    &kLoraAlpha,      &kLoraDropout, &kRsLora,
                                            &kLoraTargets, &kExcludeModules, &kLoraInit};

class Method {
 public:
  static constexpr uint32_t kCaps = TN_ADAPTER_MERGES;

  // The keys of an adapter_config.json win over the hyper-parameters.
  Method(const tn_host* host, const Hypers& hypers, const char* config_json)
      : config_(config_json ? lora_config_from(config_json, host, false) : lora_config_from(hypers)),
        targets_(config_.selection),
        dropout_(config_.dropout) {}

  void supports(const tn_query& q) const {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16)) fail(TN_E_UNSUPPORTED, "@NAME@ computes in f32 or bf16");
  }
  void bind(const tn_site* const* sites, uint64_t n, const tn_adapter_sink& sink) {
    targets_.refuse_lookups("@NAME@", sites, n);
    for (uint64_t i = 0; i < n; ++i) {
      const tn_site& s = *sites[i];
      if (s.place != TN_PLACE_LINEAR || !targets_.takes(s)) continue;
      const int64_t r = targets_.rank_of(s.path, config_.r);
      sites_[s.id] = {s.m, s.n, r, config_.scale(r, targets_.alpha_of(s.path, config_.alpha))};
      check(sink.site(sink.self, s.id, TN_RETAIN_INPUT));
      declare(sink, s, true, {r, s.n}, "lora_A.weight");
      declare(sink, s, false, {s.m, r}, "lora_B.weight");
    }
    if (sites_.empty()) targets_.none_taken(sites, n);
  }
  // Measured by the very code that computes, with nothing bound.
  void estimate(const tn_device_api* api, tn_device* device, uint32_t site, int64_t rows, tn_dtype compute,
                bool backward, tn_estimate& out) const {
    const LowRank& f = at(site);
    Scratch s(api, device, compute);
    const Matrix x = Matrix::dense(nullptr, compute, rows, f.n), y = Matrix::dense(nullptr, compute, rows, f.m);
    backward ? f.backward(s, nullptr, dropout_, y, &x) : f.forward(s, nullptr, dropout_, x, &y);
    out.flops = s.flops();
    if (!backward) f.merge(s, f.a(nullptr), f.b(nullptr), 0, Matrix::dense(nullptr, std::min(rows, f.m), f.n));
    out.saved_bytes = backward ? 0 : f.saved_bytes(rows, compute);
    out.state_bytes = static_cast<uint64_t>(f.r * (f.m + f.n)) * 4;
    out.workspace_bytes = aligned(s.peak());
    out.bytes_moved = static_cast<double>(rows) * static_cast<double>(2 * f.m + f.n) * compute.bits / 8;
  }
  void init_param(const tn_exec* exec, uint32_t param, const tn_base_linear*, const tn_rng& rng,
                  tn_tensor& value) const {
    if (param >= is_a_.size()) fail(TN_E_ARGUMENT, "@NAME@ has no parameter " + std::to_string(param));
    init_factor(exec, rng, config_.init, is_a_[param], config_.r, value.shape[1], contiguous<float>(&value, "a factor"),
                count(value));
  }
  void forward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& x,
               tn_tensor* y) const {
    if (y) check(base.forward(base.self, &x, 1, 0, y));
    if (x.shape[0] == 0) return;
    Scratch s(*call.exec, x.dtype);
    const Matrix out = y ? Matrix::of(*y) : Matrix();
    at(site).forward(s, &call, dropout_, Matrix::of(x), y ? &out : nullptr);
  }
  void backward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& dy,
                double beta, tn_tensor* dx) const {
    if (dx) check(base.backward(base.self, &dy, 1, beta, dx));
    if (dy.shape[0] == 0) return;
    Scratch s(*call.exec, dy.dtype);
    const Matrix to = dx ? Matrix::of(*dx) : Matrix();
    at(site).backward(s, &call, dropout_, Matrix::of(dy), dx ? &to : nullptr);
  }
  void merge_rows(const tn_exec* exec, uint32_t site, const tn_param_view* const* params, uint64_t, int64_t begin,
                  int64_t, tn_tensor& w) const {
    Scratch s(*exec, kF32);
    at(site).merge(s, Matrix::of(*params[0]->value), Matrix::of(*params[1]->value), begin, Matrix::of(w));
  }
  void write_config(const tn_sink& sink) const {
    const std::string text = to_json(config_);
    check(sink.write(sink.self, text.data(), text.size()));
  }

 private:
  const LowRank& at(uint32_t site) const {
    const auto found = sites_.find(site);
    if (found == sites_.end()) fail(TN_E_ARGUMENT, "@NAME@ did not take site " + std::to_string(site));
    return found->second;
  }
  void declare(const tn_adapter_sink& sink, const tn_site& site, bool is_a, std::array<int64_t, 2> shape,
               const char* tensor) {
    declare_param(sink, static_cast<uint32_t>(is_a_.size()), static_cast<int32_t>(site.id), kTrained, shape,
                  peft_key(site, tensor));
    is_a_.push_back(is_a);
  }

  LoraConfig config_;
  Targets targets_;
  Dropout dropout_;
  std::map<uint32_t, LowRank> sites_;
  std::vector<bool> is_a_;  // by parameter
};

constexpr tn_adapter_api kApi = adapter_api<Method>();
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "@ID@", "0.1.0", kHypers, &kApi);

}  // namespace

TENON_PLUGIN(kPlugin)
