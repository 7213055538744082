// COSMOS (Liu et al. 2025): SOAP on the leading eigenvectors of a gradient's input side, Muon on the rest. Matrices of
// up to 10,000 rows are taken, as in the reference; embeddings and heads of larger vocabularies, norms and biases get
// AdamW.
#include "optimizers/cosmos/update.h"
#include "sdk/optimizer.h"

namespace tenon::sdk {
namespace {

constexpr int64_t kMostRows = 10000;
constexpr tn_hyper_info kRank = integer("rank", "64", 1, 1048576, nullptr,
                                        "dimension of the subspace; at most the number of columns is used"),
                        kRatio = real("lr_ratio", "0.1", 0, kInfinity, TN_RANGE_OPEN_MAX, nullptr,
                                      "rate of the matrices, as a share of lr: the root mean square of their step"),
                        kGamma = real("gamma", "0.2", 0, kInfinity, TN_RANGE_OPEN_MAX, nullptr,
                                      "weight of the part outside the subspace"),
                        kNesterov = flag("nesterov", "true", "blend the gradient with its average once more"),
                        kNsSteps = integer("ns_steps", "5", 1, 10, nullptr, "Newton-Schulz iterations"),
                        kNsDtype = choice("ns_dtype", "bf16", "bf16|f32", "type of the Newton-Schulz products"),
                        kEps = hyper_eps("1e-8"), kWeightDecay = hyper_weight_decay("0");
constexpr const tn_hyper_info* kHypers[] = {&kRank,    &kRatio,      &kGamma,      &kNesterov, &kNsSteps,
                                            &kNsDtype, &kHyperBeta1, &kHyperBeta2, &kEps,      &kWeightDecay};

class Cosmos {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME;

  Cosmos(const tn_host*, const Hypers& h)
      : s_{{h.real("beta1"), h.real("beta2"), h.real("eps"), h.real("weight_decay")},
           h.real("lr_ratio"),
           h.real("gamma"),
           h.integer("rank"),
           h.integer("ns_steps"),
           h.flag("nesterov"),
           h.text("ns_dtype") == "bf16" ? kBF16 : kF32},
        adam_(s_.adam) {
    adam_.beta1 = 0.9;  // as in the reference, whatever beta1 is
  }

  void supports(const tn_query& q) const { supports_dense("cosmos", q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind("cosmos", params, n); }

  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    const Parameters::Entry& e = parameters_.at(uid);
    if (!is_taken(e)) return adam_declare(sink, e.info);
    cosmos::declare_states(plan(e), sink);
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t uid, tn_estimate& out) const {
    const Parameters::Entry& e = parameters_.at(uid);
    if (!is_taken(e)) return adam_estimate(e, out);
    const cosmos::Plan p = plan(e);
    Workspace measure;
    const cosmos::Buffers b(s_, p, measure);
    const double n = static_cast<double>(e.n), r = static_cast<double>(p.r);
    out.state_bytes = p.state_bytes();
    out.workspace_bytes = b.fixed + cosmos::product_bytes(s_, p, b, Products(api, device));
    out.flops = b.outside.flops() + 12 * n * r + 2 * static_cast<double>(p.m + 4 * p.n) * r * r + b.qr.flops() + 20 * n;
    out.bytes_moved = 2.0 * static_cast<double>(out.state_bytes) + 3 * n * e.info.dtype.bits / 8;
  }

  int32_t apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    int32_t status = TN_OK;
    for (uint64_t i = 0; i < n; ++i) {
      const tn_item& item = *items[i];
      const Parameters::Entry& e = parameters_.check(item);
      if (!item.grad || e.n == 0) continue;
      if (is_taken(e)) {
        const cosmos::Plan p = plan(e);
        if (!cosmos::Update(exec, s_, p, item).run()) status = TN_DEGRADED;
      } else {
        adam_update(exec, adam_, item, false);
      }
    }
    return status;
  }

 private:
  static bool is_taken(const Parameters::Entry& e) {
    return e.info.ndim == 2 && e.n > 0 && e.info.shape[0] <= kMostRows;
  }
  cosmos::Plan plan(const Parameters::Entry& e) const { return {s_, e.info.shape[0], e.info.shape[1]}; }

  cosmos::Settings s_;
  AdamSettings adam_;
  Parameters parameters_;
};

constexpr tn_optimizer_api kApi = optimizer_api<Cosmos>();
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "cosmos", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
