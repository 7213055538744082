// MeZO (Malladi et al. 2023): fine-tuning with forward passes alone. The engine is sdk/spsa.h.
#include "sdk/spsa.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info kWeightDecay = real("weight_decay", "0", 0, kInfinity, TN_RANGE_OPEN_MAX, "1/lr",
                                            "the weight shrinks by lr * weight_decay a step; norms and biases never do");
constexpr const tn_hyper_info* kHypers[] = {&kHyperZoEps, &kWeightDecay, &kHyperProbes, &kHyperDist, &kHyperSide};

struct Mezo : ZerothOrder {
  Mezo(const tn_host*, const Hypers& h) : ZerothOrder("mezo", settings(h)) {}
  static SpsaSettings settings(const Hypers& h) {
    SpsaSettings s = spsa_settings(h);
    s.weight_decay = h.real("weight_decay");
    return s;
  }
};

constexpr tn_optimizer_api kApi = optimizer_api<Mezo>();
constexpr tn_drive kDrive = drive_table<Mezo>();
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_DRIVE ? &kDrive : nullptr; }
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "mezo", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
