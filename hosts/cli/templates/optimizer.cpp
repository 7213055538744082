// @NAME@: gradient descent with momentum. Replace update(), the schema and the estimate by your rule's.
//
//   m = momentum m + g;   w -= lr (m + weight_decay w)
#include "sdk/optimizer.h"
#include "sdk/parameters.h"
#include "sdk/stored.h"

namespace {

using namespace tenon::sdk;

constexpr tn_hyper_info kMomentum = real("momentum", "0.9", 0, 1, TN_RANGE_OPEN_MAX, nullptr,
                                         "how much of the last update is kept"),
                        kWeightDecay = real("weight_decay", "0", 0, kInfinity, TN_RANGE_OPEN_MAX, "1/lr",
                                            "decoupled: the weight shrinks by lr * this");
constexpr const tn_hyper_info* kHypers[] = {&kMomentum, &kWeightDecay};

struct Numbers {
  float momentum, decay, lr, grad_scale;
};

// Chunk by chunk in f32, whatever weights and gradients are kept in. The lambda is compiled for the CPU here, and as a
// kernel where the object is built for a GPU.
void update(const tn_exec* exec, Numbers a, int64_t n, Stored grad, Stored weight, Stored momentum) {
  for_each_block<3 * kChunk * sizeof(float)>(
      exec, chunks(n),
      [=](const Block& block) {
        const Chunk chunk(block, n);
        float* stage = block.shared<float>();
        const float* g = grad.read(block, chunk, stage);
        float* w = weight.read(block, chunk, stage + kChunk);
        float* m = momentum.read(block, chunk, stage + 2 * kChunk);
        block.each(chunk.n, [=](int64_t i) {
          m[i] = a.momentum * m[i] + a.grad_scale * g[i];
          w[i] -= a.decay * w[i] + a.lr * m[i];
        });
        weight.write(block, chunk, w);
        momentum.write(block, chunk, m);
      },
      kChunk);
}

class Rule {
 public:
  // Any subset of elements in any order: the rule runs inside backward and under any sharding.
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME | TN_OPTIMIZER_ROWWISE | TN_OPTIMIZER_ELEMENTWISE;

  Rule(const tn_host*, const Hypers& h) : momentum_(h.real("momentum")), weight_decay_(h.real("weight_decay")) {}

  void supports(const tn_query& q) const { supports_dense("@NAME@", q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind("@NAME@", params, n); }
  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    declare_like(sink, "momentum", kF32, parameters_.at(uid).info);
  }
  void estimate(const tn_device_api*, tn_device*, uint32_t uid, tn_estimate& out) const {
    const auto& [p, n] = parameters_.at(uid);
    out.state_bytes = static_cast<uint64_t>(n) * 4;
    out.flops = 6.0 * static_cast<double>(n);
    out.bytes_moved = (8.0 + 3.0 * p.dtype.bits / 8) * static_cast<double>(n);
  }
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    for (uint64_t i = 0; i < n; ++i) {
      const tn_item& item = *items[i];
      const Parameters::Entry& p = parameters_.check(item);
      if (!item.grad) continue;
      const Numbers a = {static_cast<float>(momentum_), static_cast<float>(item.lr * weight_decay_ * item.decay_scale),
                         static_cast<float>(item.lr), static_cast<float>(item.grad_scale)};
      update(exec, a, p.n, gradient_of(item), weight_of(item), state_of(item, 0, p.n));
    }
  }

 private:
  double momentum_, weight_decay_;
  Parameters parameters_;
};

constexpr tn_optimizer_api kApi = optimizer_api<Rule>();
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "@ID@", "0.1.0", kHypers, &kApi);

}  // namespace

TENON_PLUGIN(kPlugin)
