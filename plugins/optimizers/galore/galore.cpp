// GaLore (Zhao et al. 2024): Adam in the dominant subspace of each gradient. The seven linear weights of a block are
// projected; everything else is AdamW under the same settings.
#include <memory>

#include "sdk/galore/update.h"
#include "sdk/optimizer.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info
    kScale =
        real("scale", "0.25", 0, kInfinity, TN_RANGE_OPEN_MAX, nullptr, "multiplies the projected parameters' step"),
    kProjType = choice("proj_type", "std", "std|reverse_std|left|right|full",
                       "side projected: std = the shorter one, full = both"),
    kEps = hyper_eps("1e-6"), kWeightDecay = hyper_weight_decay("0"), kDecay = hyper_decay("post"),
    kEpsMode =
        choice("eps_mode", "auto", "auto|exact|hf",
               "eps beside the bias-corrected root (exact) or the plain one (hf); auto: exact in 8 bits, else hf"),
    kStateBits = choice("state_bits", "32", "32|8", "bits of a moment"),
    kBlocksize =
        choice("blocksize", "256", "64|128|256|512|1024|2048|4096", "8 bits: consecutive elements that share a scale"),
    kMinSize = integer("min_8bit_size", "4096", 0, 9007199254740992.0, "elements", "8 bits: smaller moments stay f32"),
    kEmbedF32 = flag("embed_f32", "true", "8 bits: embeddings keep f32 moments"),
    kProjDtype = choice("proj_dtype", "f32", "f32|bf16", "how the projectors are kept"),
    kMoments = choice("moments", "keep", "keep|reset|rotate",
                      "what a refresh does to the moments; rotate: the first one is carried over"),
    kStagger = flag("stagger", "false", "spread the refreshes over the gap instead of refreshing all at once");
constexpr const tn_hyper_info* kHypers[] = {
    &galore::kHyperRank,  &galore::kHyperGap,       &kScale,     &kProjType, &kHyperBeta1, &kHyperBeta2, &kEps,     &kWeightDecay, &kEpsMode,
    &kDecay, &kStateBits, &kBlocksize, &kMinSize,  &kEmbedF32,   &kProjDtype,  &kMoments, &galore::kHyperSvd,         &kStagger};

class GaLore {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME;

  GaLore(const tn_host*, const Hypers& h) : embed_f32_(h.flag("embed_f32")), coder_(std::make_unique<Adam8Coder>()) {
    using namespace galore;
    settings_.eight_bit = h.text("state_bits") == "8";
    const auto mode = h.text("eps_mode");
    settings_.adam = {h.real("beta1"),
                      h.real("beta2"),
                      h.real("eps"),
                      h.real("weight_decay"),
                      mode == "hf" || (mode == "auto" && !settings_.eight_bit),
                      h.text("decay") == "pre"};
    settings_.rank = h.integer("rank"), settings_.gap = h.integer("update_proj_gap"), settings_.scale = h.real("scale");
    settings_.side = side_of(h.text("proj_type"));
    const auto moments = h.text("moments");
    settings_.moments = moments == "keep" ? Moments::kKeep : moments == "reset" ? Moments::kReset : Moments::kRotate;
    settings_.svd = svd_of(h.text("svd"));
    settings_.stagger = h.flag("stagger");
    settings_.min_8bit_size = h.integer("min_8bit_size"),
    settings_.blocksize = std::stoll(std::string(h.text("blocksize")));
    settings_.basis_dtype = h.text("proj_dtype") == "bf16" ? kBF16 : kF32;
  }

  void supports(const tn_query& q) const { supports_dense("galore", q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind("galore", params, n); }

  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    const Parameters::Entry& e = parameters_.at(uid);
    if (is_projected(e)) return galore::declare_states(plan(e), sink);
    if (is_8bit(e)) return adam8_declare(sink, e.info.ndim, e.info.shape, settings_.blocksize);
    adam_declare(sink, e.info);
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t uid, tn_estimate& out) const {
    const Parameters::Entry& e = parameters_.at(uid);
    const double weights = 3.0 * static_cast<double>(e.n) * e.info.dtype.bits / 8;
    if (!is_projected(e)) {
      if (!is_8bit(e)) return adam_estimate(e, out);
      out.state_bytes = adam8_bytes(e.n, settings_.blocksize);
      out.flops = 40.0 * static_cast<double>(e.n);
      out.bytes_moved = 2.0 * static_cast<double>(out.state_bytes) + weights;
      return;
    }
    const galore::Plan p = plan(e);
    Workspace measure;
    galore::estimate(p, galore::Buffers(p, measure), Products(api, device), e, out);
  }

  int32_t apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    int32_t status = TN_OK;
    for (uint64_t i = 0; i < n; ++i) {
      const tn_item& item = *items[i];
      const Parameters::Entry& e = parameters_.check(item);
      if (!item.grad || e.n == 0) continue;
      if (is_projected(e)) {
        const galore::Plan p = plan(e);
        if (!refreshes_.add(galore::Update(exec, p, *coder_, item, settings_.stagger ? item.uid % settings_.gap : 0).run()))
          status = TN_DEGRADED;
      } else if (is_8bit(e)) {
        adam8_update(exec, settings_.adam, *coder_, item, settings_.blocksize);
      } else {
        adam_update(exec, settings_.adam, item, false);
      }
    }
    return status;
  }

  void finish(const tn_step&, tn_advice& advice) { refreshes_.report(advice, "galore_refreshes", "galore_energy"); }

 private:
  bool is_projected(const Parameters::Entry& e) const { return is_block_linear(e.info) && e.n > 0; }
  bool is_8bit(const Parameters::Entry& e) const {
    return settings_.eight_bit && e.n >= settings_.min_8bit_size && !(embed_f32_ && e.info.role == TN_ROLE_EMBEDDING);
  }
  galore::Plan plan(const Parameters::Entry& e) const { return {settings_, e.info.shape[0], e.info.shape[1]}; }

  galore::Settings settings_{};
  bool embed_f32_;
  std::unique_ptr<Adam8Coder> coder_;
  Parameters parameters_;
  galore::Refreshes refreshes_;
};

constexpr tn_optimizer_api kApi = optimizer_api<GaLore>();
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "galore", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
