// Fira (Chen et al. 2024): GaLore's low-rank Adam, with the rest of the gradient as a full-rank step of fitting size.
// The seven linear weights of a block are projected; everything else is AdamW under the same settings.
#include <memory>

#include "optimizers/fira/update.h"
#include "sdk/optimizer.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info kAlpha = real("alpha", "0.25", 0, kInfinity, TN_RANGE_OPEN_MAX, nullptr,
                                      "multiplies the step inside the subspace"),
                        kProjType = choice("proj_type", "std", "std|reverse_std|left|right",
                                           "side projected: std = the shorter one"),
                        kGamma = real("gamma", "1.01", 1, kInfinity, TN_RANGE_OPEN_MAX, nullptr,
                                      "largest growth of the residual's norm a step"),
                        kCompat =
                            flag("compat_alpha", "false",
                                 "subtract alpha times the projection from the gradient, as the authors' code does"),
                        kEps = hyper_eps("1e-6"), kWeightDecay = hyper_weight_decay("0"), kDecay = hyper_decay("post"),
                        kEpsMode = choice("eps_mode", "hf", "exact|hf",
                                          "eps beside the bias-corrected root (exact) or the plain one (hf)");
constexpr const tn_hyper_info* kHypers[] = {
    &galore::kHyperRank, &galore::kHyperGap, &kAlpha, &kProjType, &kGamma,       &kCompat,
    &kHyperBeta1,        &kHyperBeta2,       &kEps,   &kEpsMode,  &kWeightDecay, &kDecay,
    &galore::kHyperSvd};

class Fira {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME;

  Fira(const tn_host*, const Hypers& h)
      : alpha_(h.real("alpha")),
        gamma_(h.real("gamma")),
        inside_(h.flag("compat_alpha") ? alpha_ : 1.0),
        coder_(std::make_unique<Adam8Coder>()) {
    settings_.adam = {
        h.real("beta1"),         h.real("beta2"), h.real("eps"), h.real("weight_decay"), h.text("eps_mode") == "hf",
        h.text("decay") == "pre"};
    settings_.rank = h.integer("rank"), settings_.gap = h.integer("update_proj_gap"), settings_.scale = 1;
    settings_.side = galore::side_of(h.text("proj_type")), settings_.svd = galore::svd_of(h.text("svd"));
    settings_.moments = galore::Moments::kKeep, settings_.basis_dtype = kF32;
  }

  void supports(const tn_query& q) const { supports_dense("fira", q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind("fira", params, n); }

  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    const Parameters::Entry& e = parameters_.at(uid);
    if (!is_projected(e)) return adam_declare(sink, e.info);
    galore::declare_states(plan(e), sink);
    const int64_t one = 1;
    declare_slot(sink, "residual_norm", TN_SLOT_VALUE, kF32, 1, &one);
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t uid, tn_estimate& out) const {
    const Parameters::Entry& e = parameters_.at(uid);
    if (!is_projected(e)) return adam_estimate(e, out);
    const galore::Plan p = plan(e);
    Workspace measure;
    fira::Residual(p).lay_out(measure);
    galore::estimate(p, galore::Buffers(p, measure), Products(api, device), e, out);
    out.state_bytes += sizeof(float);
    const double n = static_cast<double>(e.n);
    out.flops += 4 * n + 6.0 * static_cast<double>(p.projected());
    out.bytes_moved += n * e.info.dtype.bits / 8;  // the gradient is read once more
  }

  int32_t apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    int32_t status = TN_OK;
    for (uint64_t i = 0; i < n; ++i) {
      const tn_item& item = *items[i];
      const Parameters::Entry& e = parameters_.check(item);
      if (!item.grad || e.n == 0) continue;
      if (!is_projected(e)) {
        adam_update(exec, settings_.adam, item, false);
        continue;
      }
      const galore::Plan p = plan(e);
      if (item.n_states < p.first_moment() + 3)
        fail(TN_E_ARGUMENT,
             "fira: an item came with " + std::to_string(item.n_states) + " states, state_layout declared more");
      Workspace workspace(*exec);
      fira::Residual residual(p);
      residual.lay_out(workspace);
      if (!refreshes_.add(fira::Update(exec, p, *coder_, item, alpha_, inside_, gamma_, residual, workspace).run()))
        status = TN_DEGRADED;
    }
    return status;
  }

  void finish(const tn_step&, tn_advice& advice) { refreshes_.report(advice, "fira_refreshes", "fira_energy"); }

 private:
  bool is_projected(const Parameters::Entry& e) const { return is_block_linear(e.info) && e.n > 0; }
  galore::Plan plan(const Parameters::Entry& e) const { return {settings_, e.info.shape[0], e.info.shape[1]}; }

  galore::Settings settings_{};
  double alpha_, gamma_, inside_;
  std::unique_ptr<Adam8Coder> coder_;
  Parameters parameters_;
  galore::Refreshes refreshes_;
};

constexpr tn_optimizer_api kApi = optimizer_api<Fira>();
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "fira", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
