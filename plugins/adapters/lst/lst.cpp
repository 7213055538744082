// LST: Ladder Side-Tuning (Sung et al. 2022). The side network is the SDK's; here are LST's choices of it.
#include "sdk/adapter/settings.h"
#include "sdk/adapter/side_network.h"

namespace tenon::lst {
namespace {

using namespace tenon::sdk;

constexpr tn_hyper_info kReduction =
    integer("reduction_factor", "8", 1, 65536, nullptr, "width of the model over width of the side network");
constexpr tn_hyper_info kTemperature = real("gate_T", "0.1", 0, kInfinity, TN_RANGE_OPEN_MIN | TN_RANGE_OPEN_MAX,
                                            nullptr, "gates are sigmoid(a / gate_T)");
constexpr tn_hyper_info kGate = choice("gate", "before", "before|after", "a tap joins before or after its side block");
constexpr tn_hyper_info kInit =
    choice("init", "pruned", "pruned|fresh", "side blocks from evenly spread units of the backbone's, or at random");
constexpr tn_hyper_info kDropped = text("dropped_layers", "", "blocks without a side block, joined by +");
constexpr tn_hyper_info kTaps = choice(
    "taps", "kept", "kept|rerun", "block outputs for the down-samplers' gradient: kept, or found by a second forward");
constexpr const tn_hyper_info* kHypers[] = {&kReduction, &kTemperature, &kGate, &kInit, &kDropped, &kTaps};

SideSettings side_settings(const Settings& s) {
  SideSettings out;
  out.reduction = s.integer("reduction_factor"), out.down = Down::kDense;
  out.taps = s.text("taps") == "rerun" ? Taps::kRerun : Taps::kKept;
  out.vector_gate = false, out.gate_temperature = s.real("gate_T"), out.gate_start = 0;
  out.gate_after = s.text("gate") == "after", out.mix_output = false, out.copy_blocks = s.text("init") == "pruned";
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

class Lst {
 public:
  static constexpr uint32_t kCaps = 0;
  Lst(const tn_host* host, const Hypers& hypers, const char* config_json)
      : settings_(host, hypers, kHypers, config_json, "LST"), network_("lst", side_settings(settings_)) {}

  void supports(const tn_query& q) {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16)) fail(TN_E_UNSUPPORTED, "lst computes in f32 or bf16");
  }
  void bind_region(const tn_region_model& model, const tn_region_sink& sink) { network_.bind(model, sink); }
  void init_param(const tn_exec* exec, uint32_t param, const tn_base_linear* base, const tn_rng& rng,
                  tn_tensor& value) {
    network_.init(exec, param, base, rng, value);
  }
  void run_forward(const Region& r, const tn_tensor& x, tn_tensor& y) { network_.forward(r, x, y); }
  void run_backward(const Region& r, const tn_tensor& dy, tn_tensor* dx) {
    if (dx) fail(TN_E_UNSUPPORTED, "lst sends no gradient to the embedding; train it with another adapter");
    network_.backward(r, dy);
  }
  void write_config(const tn_sink& sink) {
    const std::string text = settings_.json();
    check(sink.write(sink.self, text.data(), text.size()));
  }

 private:
  Settings settings_;
  SideNetwork network_;
};

constexpr tn_adapter_api kApi = region_adapter_api<Lst>();
constexpr tn_region_api kRegion = region_api<Lst>();
const void* extension(const char* id) {
  return std::string_view(id) == TN_EXT_REGION ? &kRegion : nullptr;
}
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "lst", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::lst

TENON_PLUGIN(tenon::lst::kPlugin)
