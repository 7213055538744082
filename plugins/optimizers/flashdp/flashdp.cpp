// FlashDP (2025): differentially private training with per-layer clipping. The plugin replaces the weight-gradient product of every linear
// (org.tenon.linear-wgrad/1): each sample's gradient is clipped before the sum, without ever being stored beside the others. Noise joins
// when the gradient is complete; any optimizer follows. What is not the weight of a linear is frozen: it would leave unclipped.
#include <array>
#include <map>
#include <mutex>

#include "accountant.h"
#include "clip.h"
#include "sdk/inner.h"
#include "sdk/optimizer.h"
#include "sdk/parameters.h"
#include "sdk/workspace.h"
#include "tenon/linear_wgrad.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info kInner = hyper_inner("adamw"),
                        kNorm = real("max_grad_norm", "1", 0, kInfinity, TN_RANGE_OPEN_MIN, "nats", "C: bound of a sample's gradient over all layers"),
                        kNoise = real("noise_multiplier", "1", 0, kInfinity, TN_RANGE_OPEN_MAX, nullptr, "s: the noise's standard deviation is s * C"),
                        kBatch = integer("expected_batch", "0", 0, 1e12, "samples", "what sums are divided by; 0: the step's own number of samples"),
                        kSize = integer("dataset_size", "0", 0, 1e15, "samples", "for the accountant; 0: no epsilon is reported"),
                        kDelta = real("delta", "1e-5", 0, 1, TN_RANGE_OPEN_MIN | TN_RANGE_OPEN_MAX, nullptr, "of the accountant"),
                        kSecret = integer("noise_seed", "0", 0, 9e18, nullptr, "keep it secret: who knows it and the run's seed can subtract the noise");
constexpr const tn_hyper_info* kHypers[] = {&kNorm, &kNoise, &kBatch, &kSize, &kDelta, &kSecret, &kInner};

constexpr uint32_t kNoiseStream = 0x44505347;
// Elements of a noisy gradient that exist at a time, if the inner optimizer takes runs: they stay in cache between noise and update.
constexpr int64_t kRun = 256 * TN_RUN_ALIGNMENT;

class FlashDp {
 public:
  static constexpr uint32_t kCaps = 0;  // a layer's share of C depends on how many there are, its noise on the whole sum

  FlashDp(const tn_host* host, const Hypers& h)
      : inner_(host, "flashdp", h.text("inner")),
        bound_(h.real("max_grad_norm")),
        multiplier_(h.real("noise_multiplier")),
        delta_(h.real("delta")),
        batch_(h.integer("expected_batch")),
        size_(h.integer("dataset_size")),
        secret_(static_cast<uint64_t>(h.integer("noise_seed"))) {}

  void supports(const tn_query& q) const {
    supports_dense("flashdp", q);
    inner_.supports(q);
  }
  void bind(const tn_param* const* params, uint64_t n) {
    parameters_.bind("flashdp", params, n);
    inner_.bind(params, n);
    layers_.clear(), frozen_.clear();
    for (uint64_t i = 0; i < n; ++i) {
      const tn_param& p = *params[i];
      const bool linear = p.ndim == 2 && p.in_axis == 1 && ((p.role >= TN_ROLE_Q && p.role <= TN_ROLE_DOWN) || p.role == TN_ROLE_HEAD);
      if (linear)
        layers_[p.uid] = 0;
      else
        frozen_.push_back(p.uid);
    }
    if (layers_.empty()) fail(TN_E_UNSUPPORTED, "flashdp trains the weights of linears, and none of them trains in this run");
  }
  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    parameters_.at(uid);
    if (layers_.contains(uid)) inner_.state_layout(uid, sink);
  }
  void estimate(const tn_device_api* api, tn_device* device, uint32_t uid, tn_estimate& out) const {
    inner_.estimate(api, device, uid, out);
    if (!layers_.contains(uid)) {
      out.state_bytes = out.workspace_bytes = 0;
      return;
    }
    const int64_t n = parameters_.at(uid).n;
    Workspace w;
    w.take<float>(run_of(n));
    out.workspace_bytes += w.peak();
    if (multiplier_ > 0) out.flops += noise_operations(Noise::kNormal) * static_cast<double>(n);
  }
  void plan(const tn_step& step, const tn_plan_sink& sink) {
    inner_.plan(step, sink);
    for (const uint32_t uid : frozen_) check(sink.param(sink.self, uid, TN_PLAN_FREEZE));
    for (auto& [uid, samples] : layers_) samples = 0, check(sink.param(sink.self, uid, TN_PLAN_OWN_WGRAD));
  }

  void wgrad_estimate(const tn_device_api* api, tn_device* device, uint32_t uid, int64_t rows, int64_t samples, tn_estimate& out) const {
    const tn_param& p = parameters_.at(uid).info;
    const ClipPlan plan{rows, p.shape[0], p.shape[1], samples};
    Workspace w;
    const ClipBuffers buffers(w, plan);
    out.workspace_bytes = w.peak() + product_bytes(Products(api, device), plan);
    out.flops = 4.0 * static_cast<double>(rows) * static_cast<double>(parameters_.at(uid).n);
  }
  void wgrad(const tn_exec* exec, uint32_t uid, const tn_samples& samples, const tn_tensor& x, const tn_tensor& dy, double beta, tn_tensor& dw) {
    const auto at = layers_.find(uid);
    if (at == layers_.end()) fail(TN_E_STATE, "flashdp: a weight-gradient was asked for a parameter that is frozen");
    at->second += samples.n;
    const double share = bound_ / std::sqrt(static_cast<double>(layers_.size()));
    clipped_product(exec, samples, x, dy, share, beta, dw);
  }

  int32_t apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    int32_t worst = TN_OK;
    for (uint64_t i = 0; i < n; ++i) {
      const tn_item& item = *items[i];
      const int64_t count = parameters_.check(item).n;
      const auto at = layers_.find(item.uid);
      if (at == layers_.end()) fail(TN_E_STATE, "flashdp: an item came for a parameter that is frozen; ask plan before each step");
      if (!item.grad) continue;
      const int64_t batch = batch_ > 0 ? batch_ : std::max<int64_t>(at->second, 1);
      Workspace w(*exec);
      const int64_t longest = run_of(count);
      float* const grad = w.take<float>(longest);
      // An update's own key, apart from what the host drew it for.
      const tn_rng key{item.rng.seed ^ (secret_ * 0x9E3779B97F4A7C15u), item.uid, item.rng.stream ^ kNoiseStream};
      InnerItems inner(items + i, 1, [](const tn_item&) { return 0u; });
      tn_exec rest = *exec;
      rest.workspace = w.behind(w.peak()), rest.workspace_bytes = w.bytes_behind(w.peak());
      const auto noisy = [&](tn_item& to, int64_t begin, int64_t n) {
        add_noise(exec, gradient_of(item), begin, n, key, static_cast<float>(multiplier_ * bound_), static_cast<float>(1.0 / static_cast<double>(batch)), grad);
        tn_tensor made = *to.param;
        made.data = grad, made.dtype = kF32, made.byte_offset = 0;
        to.flags |= TN_ITEM_GRAD_MAY_BE_CLOBBERED;
        return made;
      };
      if (inner_.runs()) {
        for (int64_t begin = 0; begin < count; begin += longest) {
          ItemRun run(inner[0], begin, std::min(longest, count - begin));
          tn_tensor made = noisy(run.item(), begin, std::min(longest, count - begin));
          run.item().grad = &made;
          worst = std::max(worst, inner_.apply_run(&rest, run.item(), begin));
        }
      } else {
        tn_tensor made = noisy(inner[0], 0, count);
        inner[0].grad = &made;
        worst = std::max({worst, inner_.prepare(&rest, inner.data(), 1), inner_.apply(&rest, inner.data(), 1)});
      }
    }
    return worst;
  }
  void finish(const tn_step& step, tn_advice& advice) const {
    inner_.finish(step, advice);
    if (size_ == 0) return;
    int64_t batch = batch_;
    for (const auto& [uid, samples] : layers_) batch = std::max(batch, samples);
    const double q = std::min(1.0, static_cast<double>(batch) / static_cast<double>(size_));
    check(advice.metric(advice.self, "epsilon", privacy_spent(q, multiplier_, static_cast<double>(step.step), delta_)));
  }
  void save(const tn_sink& sink) const {
    const std::string blob = inner_.save();
    check(sink.write(sink.self, blob.data(), blob.size()));
  }
  void load(const void* bytes, uint64_t n) const { inner_.load({static_cast<const char*>(bytes), n}); }

 private:
  int64_t run_of(int64_t n) const { return inner_.runs() ? std::min(n, kRun) : n; }
  // A device plans dozens of products for one answer, and is asked before every product.
  uint64_t product_bytes(const Products& products, const ClipPlan& p) const {
    const std::lock_guard lock(measuring_);
    const std::array<int64_t, 4> key{p.rows, p.m, p.n, p.samples};
    const auto known = measured_.find(key);
    return known != measured_.end() ? known->second : measured_[key] = p.measure(products);
  }

  mutable std::mutex measuring_;
  mutable std::map<std::array<int64_t, 4>, uint64_t> measured_;
  Inner inner_;
  double bound_, multiplier_, delta_;
  int64_t batch_, size_;
  uint64_t secret_;
  Parameters parameters_;
  std::map<uint32_t, int64_t> layers_;  // linears -> samples of this step
  std::vector<uint32_t> frozen_;
};

using F = OptimizerThunks<FlashDp>;
constexpr tn_optimizer_api kApi = optimizer_api<FlashDp>();
constexpr tn_linear_wgrad kWgrad = {
    TN_SIZE_TO(tn_linear_wgrad, wgrad), 0,
    [](tn_optimizer* self, const tn_device_api* api, tn_device* device, uint32_t uid, int64_t rows, int64_t samples, tn_estimate* out) -> int32_t {
      return guard(F::of(self)->host, [&] { F::of(self)->rule.wgrad_estimate(api, device, uid, rows, samples, *out); });
    },
    [](tn_optimizer* self, const tn_exec* exec, uint32_t uid, const tn_samples* samples, const tn_tensor* x, const tn_tensor* dy, double beta,
       tn_tensor* dw) -> int32_t {
      return guard(F::of(self)->host, [&] { F::of(self)->rule.wgrad(exec, uid, *samples, *x, *dy, beta, *dw); });
    }};
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_LINEAR_WGRAD ? &kWgrad : nullptr; }
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "flashdp", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
