// Muon (Jordan et al. 2024): the momentum of a hidden matrix, orthogonalised. Embedding, head, norms and biases get
// AdamW with a rate of its own, as in the reference's MuonWithAuxAdam.
#include "sdk/adam.h"
#include "sdk/linalg/newton_schulz.h"
#include "sdk/optimizer.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info kMomentum = real("momentum", "0.95", 0, 1, TN_RANGE_OPEN_MAX, nullptr,
                                         "decay of the gradient's average"),
                        kNesterov = flag("nesterov", "true",
                                         "blend the gradient with its average once more before orthogonalising"),
                        kNsSteps = integer("ns_steps", "5", 1, 10, nullptr, "Newton-Schulz iterations"),
                        kNsDtype = choice("ns_dtype", "bf16", "bf16|f32", "type of the Newton-Schulz products"),
                        kAdjust =
                            choice("adjust_lr_fn", "original", "original|match_rms_adamw|spectral_unclamped",
                                   "factor of lr for W[m, n]: sqrt(max(1, m/n)), 0.2 sqrt(max(m, n)), or sqrt(m/n)"),
                        kWeightDecay = hyper_weight_decay("0"),
                        kStateDtype = choice("state_dtype", "f32", "f32|bf16",
                                             "how the average is kept; bf16 is rounded stochastically"),
                        kAdamRatio = real("adam_lr_ratio", "0.015", 0, kInfinity, TN_RANGE_OPEN_MAX, nullptr,
                                          "rate of the parameters left to AdamW, as a share of lr"),
                        kAdamBeta1 = real("adam_beta1", "0.9", 0, 1, TN_RANGE_OPEN_MAX, nullptr, "beta1 of AdamW"),
                        kAdamBeta2 = real("adam_beta2", "0.95", 0, 1, TN_RANGE_OPEN_MAX, nullptr, "beta2 of AdamW"),
                        kAdamEps = real("adam_eps", "1e-10", 0, kInfinity, TN_RANGE_OPEN_MAX, nullptr, "eps of AdamW");
constexpr const tn_hyper_info* kHypers[] = {&kMomentum,  &kNesterov,    &kNsSteps,    &kNsDtype,
                                            &kAdjust,    &kWeightDecay, &kStateDtype, &kAdamRatio,
                                            &kAdamBeta1, &kAdamBeta2,   &kAdamEps};

class Muon {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME;

  Muon(const tn_host*, const Hypers& h)
      : adam_{h.real("adam_beta1"), h.real("adam_beta2"), h.real("adam_eps"), h.real("weight_decay")},
        momentum_(h.real("momentum")),
        adam_ratio_(h.real("adam_lr_ratio")),
        nesterov_(h.flag("nesterov")),
        steps_(static_cast<int>(h.integer("ns_steps"))),
        adjust_(h.text("adjust_lr_fn")),
        ns_dtype_(h.text("ns_dtype") == "bf16" ? kBF16 : kF32),
        state_dtype_(h.text("state_dtype") == "bf16" ? kBF16 : kF32) {}

  void supports(const tn_query& q) const { supports_dense("muon", q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind("muon", params, n); }

  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    const tn_param& p = parameters_.at(uid).info;
    if (!is_hidden_matrix(p)) return adam_declare(sink, p, state_dtype_);
    declare_like(sink, "momentum_buffer", state_dtype_, p);
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t uid, tn_estimate& out) const {
    const Parameters::Entry& e = parameters_.at(uid);
    if (!is_hidden_matrix(e.info)) return adam_estimate(e, out, state_dtype_);
    Workspace measure;
    const NewtonSchulz ns = layout(e.info, measure);
    const double n = static_cast<double>(e.n);
    out.state_bytes = static_cast<uint64_t>(e.n) * state_dtype_.bits / 8;
    out.workspace_bytes = measure.peak() + ns.measure(Products(api, device));
    out.flops = ns.flops() + 8 * n;
    out.bytes_moved = 2.0 * static_cast<double>(out.state_bytes) + 3 * n * e.info.dtype.bits / 8;
  }

  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    for (uint64_t i = 0; i < n; ++i) {
      tn_item item = *items[i];
      const Parameters::Entry& e = parameters_.check(item);
      if (!item.grad || e.n == 0) continue;
      if (is_hidden_matrix(e.info)) {
        update(exec, e, item);
      } else {
        const double lr = item.lr * adam_ratio_;
        item.lr = lr;
        adam_update(exec, adam_, item, false);
      }
    }
  }

  // The phases, public for nvcc, which takes kernels nowhere else.

  void update(const tn_exec* exec, const Parameters::Entry& e, const tn_item& item) const {
    Workspace workspace(*exec);
    const NewtonSchulz ns = layout(e.info, workspace);
    const uint64_t fixed = workspace.peak();
    average(exec, e.n, item, ns.values());
    ns.run(exec,
           Products(exec->api, exec->device, exec->stream, workspace.behind(fixed), workspace.bytes_behind(fixed)));
    const Step step{static_cast<float>(item.lr * factor(e.info)),
                    static_cast<float>(item.lr * adam_.weight_decay * item.decay_scale)};
    const Stored x = ns.values(), weight = weight_of(item);
    if (x.f32) return apply_step(exec, step, 0, e.n, x.f32, weight);
    const bf16* u = x.b16;
    apply_step(exec, step, 0, e.n, weight, [=] TN_KERNEL(int64_t i) { return to_float(u[i]); });
  }

  // momentum ← lerp(momentum, g, 1 − μ); out ← what is orthogonalised.
  void average(const tn_exec* exec, int64_t n, const tn_item& item, Stored out) const {
    const Stored grad = gradient_of(item), momentum = state_of(item, 0, n);
    const float fresh = static_cast<float>(1 - momentum_), blend = nesterov_ ? fresh : 0.0f,
                scale = static_cast<float>(item.grad_scale);
    for_each_block<3 * kChunk * sizeof(float)>(
        exec, chunks(n),
        [=] TN_KERNEL(const Block& block) {
          const Chunk chunk(block, n);
          float* stage = block.shared<float>();
          const float* g = grad.read(block, chunk, stage);
          float *b = momentum.read(block, chunk, stage + kChunk), *x = out.place(chunk, stage + 2 * kChunk);
          block.each(chunk.n, [=](int64_t i) {
            const float gi = g[i] * scale;
            b[i] = decayed(fresh, b[i], gi);
            x[i] = decayed(blend, b[i], gi);
          });
          momentum.write(block, chunk, b);
          out.write(block, chunk, x);
        },
        kChunk);
  }

 private:
  NewtonSchulz layout(const tn_param& p, Workspace& w) const {
    NewtonSchulz ns(p.shape[0], p.shape[1], ns_dtype_, steps_);
    ns.lay_out(w);
    return ns;
  }
  double factor(const tn_param& p) const {
    const double m = static_cast<double>(p.shape[0]), n = static_cast<double>(p.shape[1]);
    if (adjust_ == "match_rms_adamw") return 0.2 * std::sqrt(std::max(m, n));
    return std::sqrt(adjust_ == "original" ? std::max(1.0, m / n) : m / n);
  }

  AdamSettings adam_;
  double momentum_, adam_ratio_;
  bool nesterov_;
  int steps_;
  std::string adjust_;
  tn_dtype ns_dtype_, state_dtype_;
  Parameters parameters_;
};

constexpr tn_optimizer_api kApi = optimizer_api<Muon>();
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "muon", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
