// AdamW (Loshchilov and Hutter 2019): the rule is sdk/adam.h.
#include "sdk/adam.h"
#include "sdk/optimizer.h"
#include "sdk/parameters.h"
#include "sdk/runs.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info kEps = hyper_eps("1e-8"), kWeightDecay = hyper_weight_decay("1e-2"),
                        kDecay = hyper_decay("pre"),
                        kAmsgrad = flag("amsgrad", "false", "divide by the largest second moment so far"),
                        kEpsMode = choice("eps_mode", "exact", "exact|hf",
                                          "eps beside the bias-corrected root (exact) or the plain one (hf)"),
                        kStateDtype = choice("state_dtype", "f32", "f32|bf16",
                                             "how the moments are kept; bf16 is rounded stochastically");
constexpr const tn_hyper_info* kHypers[] = {&kHyperBeta1, &kHyperBeta2, &kEps,   &kWeightDecay,
                                            &kAmsgrad,    &kEpsMode,    &kDecay, &kStateDtype};

class AdamW {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME | TN_OPTIMIZER_ROWWISE | TN_OPTIMIZER_ELEMENTWISE;

  AdamW(const tn_host*, const Hypers& h)
      : settings_{h.real("beta1"),
                  h.real("beta2"),
                  h.real("eps"),
                  h.real("weight_decay"),
                  h.text("eps_mode") == "hf",
                  h.text("decay") == "pre"},
        amsgrad_(h.flag("amsgrad")),
        state_dtype_(h.text("state_dtype") == "bf16" ? kBF16 : kF32) {}

  void supports(const tn_query& q) const { supports_dense("adamw", q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind("adamw", params, n); }

  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    const tn_param& p = parameters_.at(uid).info;
    adam_declare(sink, p, state_dtype_);
    if (amsgrad_) declare_like(sink, "max_exp_avg_sq", state_dtype_, p);
  }

  void estimate(const tn_device_api*, tn_device*, uint32_t uid, tn_estimate& out) const {
    const auto& [p, n] = parameters_.at(uid);
    const uint64_t states = static_cast<uint64_t>(n) * (amsgrad_ ? 3 : 2) * state_dtype_.bits / 8;
    out.state_bytes = states;
    out.flops = 14.0 * static_cast<double>(n);
    out.bytes_moved = 2.0 * static_cast<double>(states) + 3.0 * static_cast<double>(n) * p.dtype.bits / 8;
  }

  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    for (uint64_t i = 0; i < n; ++i) {
      parameters_.check(*items[i]);
      if (items[i]->grad) adam_update(exec, settings_, *items[i], amsgrad_);
    }
  }
  void apply_run(const tn_exec* exec, const tn_item& item, int64_t begin) const {
    const int64_t n = check_run(parameters_, item, begin);
    if (!item.grad) return;
    const AdamNumbers a(settings_, item);
    const Stored g = gradient_of(item), w = at_run(weight_of(item), begin);
    const auto state = [&](uint32_t i) { return at_run(state_of(item, i, n), begin); };
    if (amsgrad_)
      adam_update<true>(exec, a, n, g, w, state(0), state(1), state(2));
    else
      adam_update<false>(exec, a, n, g, w, state(0), state(1), {});
  }

 private:
  AdamSettings settings_;
  bool amsgrad_;
  tn_dtype state_dtype_;
  Parameters parameters_;
};

constexpr tn_optimizer_api kApi = optimizer_api<AdamW>();
constexpr tn_runs kRuns = runs_table<AdamW>();
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_RUNS ? &kRuns : nullptr; }
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "adamw", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
