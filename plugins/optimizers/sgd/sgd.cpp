// Stochastic gradient descent with momentum. `weight_decay` is torch.optim.SGD's: coupled, it joins the gradient and so
// the momentum; `decoupled_weight_decay` shrinks the weight beside the step, as AdamW's does.
#include "sdk/optimizer.h"
#include "sdk/parameters.h"
#include "sdk/runs.h"
#include "sdk/stored.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info
    kMomentum = real("momentum", "0", 0, 1, TN_RANGE_OPEN_MAX, nullptr, "decay of the buffer; 0 = no buffer, no state"),
    kDampening = real("dampening", "0", 0, 1, 0, nullptr, "the gradient enters the buffer times 1 - dampening"),
    kNesterov = flag("nesterov", "false", "look ahead along the buffer; needs momentum and no dampening"),
    kWeightDecay = real("weight_decay", "0", 0, kInfinity, TN_RANGE_OPEN_MAX, nullptr,
                        "coupled (L2): weight_decay * w joins the gradient"),
    kDecoupled = real("decoupled_weight_decay", "0", 0, kInfinity, TN_RANGE_OPEN_MAX, "1/lr",
                      "decoupled: the weight shrinks by lr * this before the step"),
    kEma = flag("ema", "false", "the buffer is an average: the gradient enters times 1 - momentum, from 0"),
    kSign = flag("sign", "false", "step along the sign of the update"),
    kStateDtype = choice("state_dtype", "f32", "f32|bf16", "how the buffer is kept; bf16 is rounded stochastically");
constexpr const tn_hyper_info* kHypers[] = {&kMomentum,  &kDampening, &kNesterov, &kWeightDecay,
                                            &kDecoupled, &kEma,       &kSign,     &kStateDtype};

struct Numbers {
  float l2, decay, lr, grad_scale;
  float old, fresh;     // buffer = old · buffer + fresh · g
  float ahead, direct;  // update = ahead · buffer + direct · g
};

// One fused pass; without a buffer the update is the gradient itself.
template <bool Buffer, bool Sign>
void update(const tn_exec* exec, Numbers a, int64_t n, Stored grad, Stored weight, Stored buffer) {
  for_each_block<3 * kChunk * sizeof(float)>(
      exec, chunks(n),
      [=] TN_KERNEL(const Block& block) {
        const Chunk chunk(block, n);
        float* stage = block.shared<float>();
        const float* g = grad.read(block, chunk, stage);
        float* w = weight.read(block, chunk, stage + kChunk);
        float* b = Buffer ? buffer.read(block, chunk, stage + 2 * kChunk) : nullptr;
        block.each(chunk.n, [=](int64_t i) {
          const float x = std::fma(a.l2, w[i], g[i] * a.grad_scale);
          float u = x;
          if constexpr (Buffer) {
            const float next = std::fma(a.old, b[i], a.fresh * x);
            b[i] = next;
            u = std::fma(a.ahead, next, a.direct * x);
          }
          if constexpr (Sign) u = static_cast<float>((u > 0) - (u < 0));
          w[i] -= std::fma(a.decay, w[i], a.lr * u);
        });
        weight.write(block, chunk, w);
        if constexpr (Buffer) buffer.write(block, chunk, b);
      },
      kChunk);
}

class Sgd {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME | TN_OPTIMIZER_ROWWISE | TN_OPTIMIZER_ELEMENTWISE;

  Sgd(const tn_host*, const Hypers& h)
      : momentum_(h.real("momentum")),
        dampening_(h.real("dampening")),
        weight_decay_(h.real("weight_decay")),
        decoupled_(h.real("decoupled_weight_decay")),
        nesterov_(h.flag("nesterov")),
        ema_(h.flag("ema")),
        sign_(h.flag("sign")),
        state_dtype_(h.text("state_dtype") == "bf16" ? kBF16 : kF32) {
    if (nesterov_ && (momentum_ == 0 || dampening_ != 0))
      fail(TN_E_ARGUMENT, "sgd: nesterov needs momentum above 0 and dampening 0; set momentum=0.9,dampening=0");
    if (ema_ && (momentum_ == 0 || dampening_ != 0))
      fail(TN_E_ARGUMENT,
           "sgd: ema needs momentum above 0 and dampening 0, its own dampening is the momentum; set "
           "momentum=0.9,dampening=0");
  }

  void supports(const tn_query& q) const { supports_dense("sgd", q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind("sgd", params, n); }

  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    if (momentum_ > 0) declare_like(sink, "momentum_buffer", state_dtype_, parameters_.at(uid).info);
  }

  void estimate(const tn_device_api*, tn_device*, uint32_t uid, tn_estimate& out) const {
    const auto& [p, n] = parameters_.at(uid);
    out.state_bytes = momentum_ > 0 ? static_cast<uint64_t>(n) * state_dtype_.bits / 8 : 0;
    out.flops = (momentum_ > 0 ? 9.0 : 5.0) * static_cast<double>(n);
    out.bytes_moved = 2.0 * static_cast<double>(out.state_bytes) + 3.0 * static_cast<double>(n) * p.dtype.bits / 8;
  }

  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    for (uint64_t i = 0; i < n; ++i) {
      const Parameters::Entry& e = parameters_.check(*items[i]);
      if (items[i]->grad) one(exec, *items[i], e.n, 0);
    }
  }
  void apply_run(const tn_exec* exec, const tn_item& item, int64_t begin) const {
    const int64_t n = check_run(parameters_, item, begin);
    if (item.grad) one(exec, item, n, begin);
  }

 private:
  // Elements from `begin` on.
  void one(const tn_exec* exec, const tn_item& item, int64_t n, int64_t begin) const {
    Numbers a{};
    a.l2 = static_cast<float>(weight_decay_ * item.decay_scale);
    a.decay = static_cast<float>(item.lr * decoupled_ * item.decay_scale);
    a.lr = static_cast<float>(item.lr), a.grad_scale = static_cast<float>(item.grad_scale);
    const bool first = item.t == 1 && !ema_;  // the buffer starts as the gradient itself, whatever the dampening
    a.old = first ? 0.0f : static_cast<float>(momentum_);
    a.fresh = ema_ ? static_cast<float>(1 - momentum_) : first ? 1.0f : static_cast<float>(1 - dampening_);
    a.ahead = nesterov_ ? static_cast<float>(momentum_) : 1.0f;
    a.direct = !nesterov_ ? 0.0f : ema_ ? static_cast<float>(1 - momentum_) : 1.0f;
    const Stored g = gradient_of(item), w = at_run(weight_of(item), begin);
    if (momentum_ > 0) {
      const Stored b = at_run(state_of(item, 0, n), begin);
      sign_ ? update<true, true>(exec, a, n, g, w, b) : update<true, false>(exec, a, n, g, w, b);
    } else {
      sign_ ? update<false, true>(exec, a, n, g, w, {}) : update<false, false>(exec, a, n, g, w, {});
    }
  }

  double momentum_, dampening_, weight_decay_, decoupled_;
  bool nesterov_, ema_, sign_;
  tn_dtype state_dtype_;
  Parameters parameters_;
};

constexpr tn_optimizer_api kApi = optimizer_api<Sgd>();
constexpr tn_runs kRuns = runs_table<Sgd>();
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_RUNS ? &kRuns : nullptr; }
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "sgd", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
