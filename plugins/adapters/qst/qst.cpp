// QST: Quantized Side Tuning (Zhang et al. 2024). The side network is the SDK's; here are QST's choices of it.
#include "sdk/adapter/side_adapter.h"

namespace tenon::qst {
namespace {

using namespace tenon::sdk;

constexpr tn_hyper_info kReduction =
    integer("reduction", "16", 1, 65536, nullptr, "width of the model over width of the side network");
constexpr tn_hyper_info kInner = integer("r", "16", 1, 65536, nullptr, "inner size of the two-factor down-samplers");
constexpr tn_hyper_info kDown = choice("downsample", "factors", "factors|frozen|pool",
                                       "two factors, the first of them frozen, or the mean of neighbouring channels");
constexpr tn_hyper_info kTaps = choice(
    "taps", "kept", "kept|rerun", "block outputs for the first factor's gradient: kept, or found by a second forward");
constexpr tn_hyper_info kActivation = choice("activation", "none", "none|silu", "between the two factors");
constexpr tn_hyper_info kLogit =
    real("output_logit", "6", -100, 100, 0, nullptr, "start of the output gate a = sigmoid of it; 1 is the backbone");

struct Qst {
  static constexpr const char *kName = "qst", *kPeftType = "QST";
  static constexpr const tn_hyper_info* kHypers[] = {&kReduction, &kInner, &kDown, &kTaps, &kActivation, &kLogit};

  static SideSettings choose(const Settings& s) {
    SideSettings out;
    out.reduction = s.integer("reduction"), out.inner = s.integer("r");
    out.down = s.text("downsample") == "pool" ? Down::kPool : Down::kFactors;
    out.silu = s.text("activation") == "silu";
    out.freeze_first = s.text("downsample") == "frozen";
    out.taps = s.text("taps") == "rerun" ? Taps::kRerun : Taps::kKept;
    out.tie_first_taps = true, out.vector_gate = true, out.gate_start = 0.5;
    out.output_logit = s.real("output_logit");
    return out;
  }
};

constexpr tn_adapter_api kApi = region_adapter_api<SideAdapter<Qst>>();
constexpr tn_region_api kRegion = region_api<SideAdapter<Qst>>();
const void* extension(const char* id) {
  return std::string_view(id) == TN_EXT_REGION ? &kRegion : nullptr;
}
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, Qst::kName, "0.9.0", Qst::kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::qst

TENON_PLUGIN(tenon::qst::kPlugin)
