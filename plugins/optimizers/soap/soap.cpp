// SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo's preconditioner. Every matrix is preconditioned on the
// sides that are not too long for it; vectors get Adam alone. The first update of a parameter only gathers statistics.
#include "optimizers/soap/update.h"
#include "sdk/optimizer.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info kBeta1 =
                            real("beta1", "0.95", 0, 1, TN_RANGE_OPEN_MAX, nullptr, "decay of the gradient's average"),
                        kBeta2 = real("beta2", "0.95", 0, 1, TN_RANGE_OPEN_MAX, nullptr,
                                      "decay of the squared gradient's average"),
                        kShampooBeta = real("shampoo_beta", "-1", -1, 1, TN_RANGE_OPEN_MAX, nullptr,
                                            "decay of the covariances; negative: beta2"),
                        kEps = hyper_eps("1e-8"), kWeightDecay = hyper_weight_decay("0.01"),
                        kDecay = hyper_decay("post"),
                        kFrequency = integer("precondition_frequency", "10", 1, 9007199254740992.0, "steps",
                                             "updates between two refreshes of the bases"),
                        kLargest =
                            integer("max_precond_dim", "10000", 0, 1048576, nullptr, "a longer side is left as it is"),
                        kNormalize =
                            flag("normalize_grads", "false", "steps of root mean square 1: for frequencies about 100"),
                        kCorrect = flag("correct_bias", "true", "Adam's bias corrections");
constexpr const tn_hyper_info* kHypers[] = {&kBeta1, &kBeta2,     &kShampooBeta, &kEps,       &kWeightDecay,
                                            &kDecay, &kFrequency, &kLargest,     &kNormalize, &kCorrect};

class Soap {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME;

  Soap(const tn_host*, const Hypers& h)
      : s_{{h.real("beta1"), h.real("beta2"), h.real("eps"), h.real("weight_decay"), true, h.text("decay") == "pre"},
           h.real("shampoo_beta") < 0 ? h.real("beta2") : h.real("shampoo_beta"),
           h.integer("precondition_frequency"),
           h.integer("max_precond_dim"),
           h.flag("normalize_grads"),
           h.flag("correct_bias")} {}

  void supports(const tn_query& q) const { supports_dense("soap", q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind("soap", params, n); }

  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    const Parameters::Entry& e = parameters_.at(uid);
    adam_declare(sink, e.info);
    soap::declare_bases(plan(e), sink);
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t uid, tn_estimate& out) const {
    const Parameters::Entry& e = parameters_.at(uid);
    const soap::Plan p = plan(e);
    if (is_plain(p)) return adam_estimate(e, out);
    Workspace measure;
    const soap::Buffers b(p, measure);
    out.state_bytes = p.state_bytes();
    out.workspace_bytes = b.fixed + soap::product_bytes(s_, p, b, Products(api, device));
    const double sides = (p.left ? static_cast<double>(p.m) : 0) + (p.right ? static_cast<double>(p.n) : 0);
    const double refresh = (p.left ? b.left.flops() : 0) + (p.right ? b.right.flops() : 0) + 4 * p.size() * sides;
    out.flops = 5 * p.size() * sides + 14 * p.size() + refresh / static_cast<double>(s_.frequency);
    out.bytes_moved = 2.0 * static_cast<double>(out.state_bytes) + 3 * p.size() * e.info.dtype.bits / 8;
  }

  int32_t apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    int32_t status = TN_OK;
    for (uint64_t i = 0; i < n; ++i) {
      const tn_item& item = *items[i];
      const Parameters::Entry& e = parameters_.check(item);
      if (!item.grad || e.n == 0) continue;
      const soap::Plan p = plan(e);
      if (!is_plain(p)) {
        if (!soap::Update(exec, s_, p, item).run()) status = TN_DEGRADED;
      } else if (item.t > 1) {
        adam(exec, e.n, item);
      }
    }
    return status;
  }

 private:
  soap::Plan plan(const Parameters::Entry& e) const {
    if (e.info.ndim != 2 || e.n == 0) return soap::Plan(e.n);
    return {s_, e.info.shape[0], e.info.shape[1]};
  }
  bool is_plain(const soap::Plan& p) const { return !p.turned() && !s_.normalize; }  // Adam's one pass
  void adam(const tn_exec* exec, int64_t n, const tn_item& item) const {
    AdamNumbers a(s_.adam, item, item.t - 1);
    if (!s_.correct_bias) a.step = static_cast<float>(item.lr), a.root = 1;
    adam_update<false>(exec, a, n, gradient_of(item), weight_of(item), state_of(item, 0, n), state_of(item, 1, n), {});
  }

  soap::Settings s_;
  Parameters parameters_;
};

constexpr tn_optimizer_api kApi = optimizer_api<Soap>();
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "soap", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
