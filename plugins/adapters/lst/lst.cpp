// LST: Ladder Side-Tuning (Sung et al. 2022). The side network is the SDK's; here are LST's choices of it.
#include "sdk/adapter/side_adapter.h"

namespace tenon::lst {
namespace {

using namespace tenon::sdk;

constexpr tn_hyper_info kReduction =
    integer("reduction_factor", "8", 1, 65536, nullptr, "width of the model over width of the side network");
constexpr tn_hyper_info kTemperature = real("gate_T", "0.1", 0, kInfinity, TN_RANGE_OPEN_MIN | TN_RANGE_OPEN_MAX,
                                            nullptr, "gates are sigmoid(a / gate_T)");
constexpr tn_hyper_info kGate = choice("gate", "before", "before|after", "a tap joins before or after its side block");
constexpr tn_hyper_info kInit =
    choice("init", "pruned", "pruned|even|fresh", "side blocks copy the backbone's units of the largest magnitudes, or evenly spread ones; or start at random");
constexpr tn_hyper_info kDropped = text("dropped_layers", "", "blocks without a side block, joined by +");
constexpr tn_hyper_info kTaps = choice(
    "taps", "kept", "kept|rerun", "block outputs for the down-samplers' gradient: kept, or found by a second forward");

struct Lst {
  static constexpr const char *kName = "lst", *kPeftType = "LST";
  static constexpr const tn_hyper_info* kHypers[] = {&kReduction, &kTemperature, &kGate, &kInit, &kDropped, &kTaps};

  static SideSettings choose(const Settings& s) {
    SideSettings out;
    out.reduction = s.integer("reduction_factor"), out.down = Down::kDense;
    out.taps = s.text("taps") == "rerun" ? Taps::kRerun : Taps::kKept;
    out.vector_gate = false, out.gate_temperature = s.real("gate_T"), out.gate_start = 0;
    out.gate_after = s.text("gate") == "after", out.mix_output = false, out.start = s.text("init") == "fresh" ? SideStart::kFresh : s.text("init") == "even" ? SideStart::kEven : SideStart::kRanked;
    int64_t number = -1;
    for (const char c : s.text("dropped_layers") + "+") {
      if (c >= '0' && c <= '9') {
        number = std::min<int64_t>((number < 0 ? 0 : number) * 10 + (c - '0'), 1 << 20);
      } else if (c == '+') {
        if (number >= 0) out.dropped.push_back(number);
        number = -1;
      } else {
        fail(TN_E_ARGUMENT,
             "dropped_layers is " + s.text("dropped_layers").substr(0, 60) + " but must be block numbers joined by +");
      }
    }
    return out;
  }
};

constexpr tn_adapter_api kApi = region_adapter_api<SideAdapter<Lst>>();
constexpr tn_region_api kRegion = region_api<SideAdapter<Lst>>();
const void* extension(const char* id) {
  return std::string_view(id) == TN_EXT_REGION ? &kRegion : nullptr;
}
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, Lst::kName, "0.9.0", Lst::kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::lst

TENON_PLUGIN(tenon::lst::kPlugin)
