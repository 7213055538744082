// QZO: zeroth-order tuning of the scales of a quantized model (Fine-tuning Quantized Neural Networks with Zeroth-order Optimization, 2025):
// codes and zero points stay; scales move along clipped directional derivatives. The engine is sdk/spsa.h.
#include "sdk/spsa.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info kClip = real("clip", "100", 0, kInfinity, TN_RANGE_OPEN_MIN, nullptr, "the directional derivative is cut to [-clip, clip]"),
                        kRelative = flag("relative", "false", "perturb s (1 + eps z) instead of s + eps z: scales differ by orders");
constexpr const tn_hyper_info* kHypers[] = {&kHyperZoEps, &kClip, &kRelative, &kHyperProbes, &kHyperDist, &kHyperSide};

class Qzo {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME | TN_OPTIMIZER_ROWWISE | TN_OPTIMIZER_ELEMENTWISE;

  Qzo(const tn_host*, const Hypers& h)
      : spsa_({.eps = h.real("eps"),
               .clip = h.real("clip"),
               .probes = h.integer("q"),
               .two_sided = h.text("side") == "two",
               .relative = h.flag("relative"),
               .noise = noise_named(h.text("dist"))}) {}

  void supports(const tn_query& q) const { supports_dense("qzo", q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind("qzo", params, n); }
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
      parameters_.check(*items[i]);
      spsa_.update(exec, *items[i], false);
    }
  }
  void finish(const tn_step&, tn_advice& advice) const { spsa_.report(advice); }

 private:
  Spsa spsa_;
  Parameters parameters_;
};

constexpr tn_optimizer_api kApi = optimizer_api<Qzo>();
constexpr tn_drive kDrive = drive_table<Qzo>();
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_DRIVE ? &kDrive : nullptr; }
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "qzo", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
