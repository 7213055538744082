// MeZO (Malladi et al. 2023): fine-tuning with forward passes alone. The engine is sdk/spsa.h.
#include "sdk/spsa.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info kWeightDecay = real("weight_decay", "0", 0, kInfinity, TN_RANGE_OPEN_MAX, "1/lr",
                                            "the weight shrinks by lr * weight_decay a step; norms and biases never do");
constexpr const tn_hyper_info* kHypers[] = {&kHyperZoEps, &kWeightDecay, &kHyperProbes, &kHyperDist, &kHyperSide};

class Mezo {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME | TN_OPTIMIZER_ROWWISE | TN_OPTIMIZER_ELEMENTWISE;

  Mezo(const tn_host*, const Hypers& h)
      : spsa_({.eps = h.real("eps"),
               .weight_decay = h.real("weight_decay"),
               .probes = h.integer("q"),
               .two_sided = h.text("side") == "two",
               .noise = noise_named(h.text("dist"))}) {}

  void supports(const tn_query& q) const { supports_dense("mezo", q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind("mezo", params, n); }
  void state_layout(uint32_t uid, const tn_state_sink&) const { parameters_.at(uid); }
  void estimate(const tn_device_api*, tn_device*, uint32_t uid, tn_estimate& out) const {
    const auto& [p, n] = parameters_.at(uid);
    out.flops = 2.0 * static_cast<double>(spsa_.settings().probes * n);
    out.bytes_moved = 2.0 * static_cast<double>(n) * p.dtype.bits / 8;
  }
  void drive(const tn_step& step, const tn_driver& driver, tn_driven& out) { spsa_.drive(step, driver, out); }
  void perturb(const tn_exec* exec, uint32_t uid, const tn_tensor& param, const tn_displacement& at, int64_t begin, int64_t end, tn_tensor& out) const {
    parameters_.at(uid);
    spsa_.perturb(exec, uid, param, at, begin, end, out);
  }
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    for (uint64_t i = 0; i < n; ++i) {
      const uint32_t role = parameters_.check(*items[i]).info.role;
      spsa_.update(exec, *items[i], role != TN_ROLE_NORM && role != TN_ROLE_BIAS);
    }
  }
  void finish(const tn_step&, tn_advice& advice) const { spsa_.report(advice); }

 private:
  Spsa spsa_;
  Parameters parameters_;
};

constexpr tn_optimizer_api kApi = optimizer_api<Mezo>();
constexpr tn_drive kDrive = drive_table<Mezo>();
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_DRIVE ? &kDrive : nullptr; }
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "mezo", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
