// QZO: zeroth-order tuning of the scales of a quantized model (Fine-tuning Quantized Neural Networks with Zeroth-order Optimization, 2025):
// codes and zero points stay; scales move along clipped directional derivatives. The engine is sdk/spsa.h.
#include "sdk/spsa.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info kClip = real("clip", "100", 0, kInfinity, TN_RANGE_OPEN_MIN, nullptr, "the directional derivative is cut to [-clip, clip]"),
                        kRelative = flag("relative", "false", "perturb s (1 + eps z) instead of s + eps z: scales differ by orders");
constexpr const tn_hyper_info* kHypers[] = {&kHyperZoEps, &kClip, &kRelative, &kHyperProbes, &kHyperDist, &kHyperSide};

struct Qzo : ZerothOrder {
  Qzo(const tn_host*, const Hypers& h) : ZerothOrder("qzo", settings(h)) {}
  static SpsaSettings settings(const Hypers& h) {
    SpsaSettings s = spsa_settings(h);
    s.clip = h.real("clip"), s.relative = h.flag("relative");
    return s;
  }
};

constexpr tn_optimizer_api kApi = optimizer_api<Qzo>();
constexpr tn_drive kDrive = drive_table<Qzo>();
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_DRIVE ? &kDrive : nullptr; }
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "qzo", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
