// QST: Quantized Side Tuning (Zhang et al. 2024). The side network is the SDK's; here are QST's choices of it.
#include "sdk/adapter/settings.h"
#include "sdk/adapter/side_network.h"

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
constexpr tn_hyper_info kLogit =
    real("output_logit", "6", -100, 100, 0, nullptr, "start of the output gate a = sigmoid of it; 1 is the backbone");
constexpr const tn_hyper_info* kHypers[] = {&kReduction, &kInner, &kDown, &kTaps, &kLogit};

SideSettings side_settings(const Settings& s) {
  SideSettings out;
  out.reduction = s.integer("reduction"), out.inner = s.integer("r");
  out.down = s.text("downsample") == "pool" ? Down::kPool : Down::kFactors;
  out.freeze_first = s.text("downsample") == "frozen";
  out.taps = s.text("taps") == "rerun" ? Taps::kRerun : Taps::kKept;
  out.tie_first_taps = true, out.vector_gate = true, out.gate_start = 0.5;
  out.output_logit = s.real("output_logit");
  return out;
}

class Qst {
 public:
  static constexpr uint32_t kCaps = 0;
  Qst(const tn_host* host, const Hypers& hypers, const char* config_json)
      : settings_(host, hypers, kHypers, config_json, "QST"), network_("qst", side_settings(settings_)) {}

  void supports(const tn_query& q) {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16)) fail(TN_E_UNSUPPORTED, "qst computes in f32 or bf16");
  }
  void bind_region(const tn_region_model& model, const tn_region_sink& sink) { network_.bind(model, sink); }
  void init_param(const tn_exec* exec, uint32_t param, const tn_base_linear* base, const tn_rng& rng,
                  tn_tensor& value) {
    network_.init(exec, param, base, rng, value);
  }
  void run_forward(const Region& r, const tn_tensor& x, tn_tensor& y) { network_.forward(r, x, y); }
  void run_backward(const Region& r, const tn_tensor& dy, tn_tensor* dx) {
    if (dx) fail(TN_E_UNSUPPORTED, "qst sends no gradient to the embedding; train it with another adapter");
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

constexpr tn_adapter_api kApi = region_adapter_api<Qst>();
constexpr tn_region_api kRegion = region_api<Qst>();
const void* extension(const char* id) {
  return std::string_view(id) == TN_EXT_REGION ? &kRegion : nullptr;
}
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "qst", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::qst

TENON_PLUGIN(tenon::qst::kPlugin)
