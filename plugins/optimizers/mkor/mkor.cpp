// MKOR (Mozaffari et al. 2023): the gradient of a linear is preconditioned with inverses of both its Kronecker factors, kept by rank-1
// updates from the mean input and the mean output gradient; the result, at the gradient's own length, goes to an inner optimizer.
#include <map>
#include <set>

#include "factor.h"
#include "hybrid.h"
#include "sdk/inner.h"
#include "sdk/linalg/matrix.h"
#include "sdk/optimizer.h"
#include "sdk/parameters.h"
#include "sdk/workspace.h"
#include "tenon/loss.h"
#include "tenon/observe.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info kInner = hyper_inner("sgd:momentum=0.9"),
                        kFrequency = integer("inv_freq", "10", 1, 1e9, "steps", "steps between updates of the inverses"),
                        kGamma = real("gamma", "0.95", 0, 1, TN_RANGE_OPEN_MIN | TN_RANGE_OPEN_MAX, nullptr, "decay of the factors' averages"),
                        kZeta = real("zeta", "0.1", 0, 1, 0, nullptr, "share of the identity that a large inverse is mixed with"),
                        kThreshold = real("threshold", "2", 0, kInfinity, TN_RANGE_OPEN_MIN, nullptr, "an inverse with a larger entry is mixed with the identity"),
                        kClip = real("clip", "100", 0, kInfinity, TN_RANGE_OPEN_MIN, nullptr, "means are cut to this in every element"),
                        kWarmup = integer("warmup_steps", "0", 0, 1e9, "steps", "the inverses are updated in each of the first steps"),
                        kHalf = flag("half", "true", "keep the inverses in f16"),
                        kHybrid = flag("hybrid", "false", "MKOR-H: stop preconditioning when it no longer pays"),
                        kWindow = integer("hybrid_window", "50", 4, 1e9, "steps", "length of the windows that are compared; every fifth is first order"),
                        kGain = real("hybrid_gain", "0", -1, kInfinity, TN_RANGE_OPEN_MAX, nullptr,
                                     "the share by which preconditioned windows must lower the loss faster than those without"),
                        kRule = choice("rule", "sm_exact", "sm_exact|sm_ref",
                                       "inverse of the average, exactly; or the reference's form, which mixes the inverse with the identity first");
constexpr const tn_hyper_info* kHypers[] = {&kFrequency, &kGamma, &kZeta, &kThreshold, &kClip, &kWarmup, &kHalf, &kRule, &kHybrid, &kWindow, &kGain, &kInner};

class Mkor {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME;

  Mkor(const tn_host* host, const Hypers& h)
      : inner_(host, "mkor", h.text("inner")),
        frequency_(h.integer("inv_freq")),
        warmup_(h.integer("warmup_steps")),
        settings_{static_cast<float>(h.real("gamma")), static_cast<float>(h.real("zeta")), static_cast<float>(h.real("threshold")),
                  static_cast<float>(h.real("clip")), h.text("rule") == "sm_ref"},
        dtype_(h.flag("half") ? kF16 : kF32) {
    if (h.flag("hybrid")) hybrid_ = Hybrid(h.integer("hybrid_window"), h.real("hybrid_gain"));
  }

  void supports(const tn_query& q) const {
    supports_dense("mkor", q);
    inner_.supports(q);
  }
  void bind(const tn_param* const* params, uint64_t n) {
    parameters_.bind("mkor", params, n);
    inner_.bind(params, n);
    taken_.clear();
    for (uint64_t i = 0; i < n; ++i)
      if (params[i]->ndim == 2 && params[i]->role >= TN_ROLE_Q && params[i]->role <= TN_ROLE_DOWN && parameters_.at(params[i]->uid).n > 0)
        taken_.insert(params[i]->uid);
  }
  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    if (taken_.contains(uid)) {
      const tn_param& p = parameters_.at(uid).info;
      const int64_t left[] = {p.shape[0], p.shape[0]}, right[] = {p.shape[1], p.shape[1]};
      declare_slot(sink, "left_inverse", TN_SLOT_BASIS, dtype_, 2, left);
      declare_slot(sink, "right_inverse", TN_SLOT_BASIS, dtype_, 2, right);
    }
    inner_.state_layout(uid, sink);
  }
  void estimate(const tn_device_api* api, tn_device* device, uint32_t uid, tn_estimate& out) const {
    inner_.estimate(api, device, uid, out);
    if (!taken_.contains(uid)) return;
    const tn_param& p = parameters_.at(uid).info;
    const int64_t m = p.shape[0], n = p.shape[1];
    Workspace w;
    Buffers b(w, m, n);
    const Products products(api, device);
    const uint64_t gemm = b.measure(products, dtype_, m, n);
    out.state_bytes += static_cast<uint64_t>(m * m + n * n) * dtype_.bits / 8;
    out.workspace_bytes = w.peak() + std::max(gemm, out.workspace_bytes);
    out.flops += 2.0 * static_cast<double>(m * n) * static_cast<double>(m + n);
    out.bytes_moved += static_cast<double>((m * m + n * n) * dtype_.bits / 8) + 16.0 * static_cast<double>(m * n);
  }
  void plan(const tn_step& step, const tn_plan_sink& sink) {
    inner_.plan(step, sink);
    if (hybrid_.has_stopped()) return;
    if (step.step > warmup_ && (step.step - 1) % frequency_ != 0) return;
    for (const uint32_t uid : taken_) check(sink.param(sink.self, uid, TN_PLAN_TAP_MEANS));
  }

  void observe(const tn_exec* exec, const tn_item& item, const tn_tap& tap) const {
    if (!taken_.contains(item.uid) || !(tap.taps & TN_PLAN_TAP_MEANS)) return;
    const tn_param& p = parameters_.check(item).info;
    check_count(*tap.x, p.shape[1], "the mean input"), check_count(*tap.dy, p.shape[0], "the mean output gradient");
    Workspace w(*exec);
    Buffers b(w, p.shape[0], p.shape[1]);
    each_factor(item, [&](auto* factor, int64_t size, bool left) {
      if (item.t == 1) set_identity(exec, factor, size);
      update_inverse(exec, settings_, factor, size, contiguous<float>(left ? tap.dy : tap.x, "a mean"), b.vector, b.scalars);
    });
  }

  int32_t apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    int32_t worst = TN_OK;
    for (uint64_t i = 0; i < n; ++i) {
      const bool taken = taken_.contains(items[i]->uid);
      InnerItems inner(items + i, 1, [&](const tn_item&) { return taken ? 2u : 0u; });
      tn_exec rest = *exec;
      if (taken && items[i]->t == 1) each_factor(*items[i], [&](auto* factor, int64_t size, bool) { start_unless_observed(exec, factor, size); });
      if (taken && items[i]->grad && hybrid_.preconditions()) {
        const tn_param& p = parameters_.check(*items[i]).info;
        const int64_t m = p.shape[0], cols = p.shape[1];
        Workspace w(*exec);
        Buffers b(w, m, cols);
        rest.workspace = w.behind(w.peak()), rest.workspace_bytes = w.bytes_behind(w.peak());
        const Products products(exec->api, exec->device, exec->stream, rest.workspace, rest.workspace_bytes);
        const Matrix g = Matrix::of(*items[i]->grad);
        products(1, g, factor_matrix(*items[i], 1, cols), 0, Matrix::dense(b.half, m, cols));
        products(1, factor_matrix(*items[i], 0, m), Matrix::dense(b.half, m, cols), 0, Matrix::dense(b.preconditioned, m, cols));
        match_length(exec, gradient_of(*items[i]), m * cols, b.preconditioned, b.half, b.scalars);
        MatrixView view(Matrix::dense(b.preconditioned, m, cols));
        inner[0].grad = &view.tensor;
        inner[0].flags |= TN_ITEM_GRAD_MAY_BE_CLOBBERED;
        worst = std::max({worst, inner_.prepare(&rest, inner.data(), 1), inner_.apply(&rest, inner.data(), 1)});
      } else {
        worst = std::max({worst, inner_.prepare(&rest, inner.data(), 1), inner_.apply(&rest, inner.data(), 1)});
      }
    }
    return worst;
  }
  void see(double loss) { hybrid_.see(loss); }
  void finish(const tn_step& step, tn_advice& advice) const {
    inner_.finish(step, advice);
    if (!hybrid_.is_on()) return;
    check(advice.metric(advice.self, "second_order", hybrid_.preconditions() ? 1 : 0));
    check(advice.metric(advice.self, "second_order_gain", hybrid_.gain()));
  }
  void save(const tn_sink& sink) const {
    std::string blob;
    hybrid_.save(blob);
    blob += inner_.save();
    check(sink.write(sink.self, blob.data(), blob.size()));
  }
  void load(const void* bytes, uint64_t n) {
    std::string_view blob(static_cast<const char*>(bytes), n);
    hybrid_.load(blob);
    inner_.load(blob);
  }

 private:
  struct Buffers {
    float *half, *preconditioned, *vector, *scalars;
    Buffers(Workspace& w, int64_t m, int64_t n)
        : half(w.take<float>(m * n)),
          preconditioned(w.take<float>(m * n)),
          vector(w.take<float>(std::max(m, n))),
          scalars(w.take<float>(kScalars + std::max({m, n, chunks(m * n)}) * 2)) {}
    uint64_t measure(const Products& products, tn_dtype factor, int64_t m, int64_t n) const {
      uint64_t most = 0;
      for (const tn_dtype grad : {kF32, kBF16})
        most = std::max(most, products.measure(Matrix::dense(nullptr, grad, m, n), Matrix::dense(nullptr, factor, n, n), Matrix::dense(half, m, n)));
      return std::max(most, products.measure(Matrix::dense(nullptr, factor, m, m), Matrix::dense(half, m, n), Matrix::dense(preconditioned, m, n)));
    }
  };
  template <class F>
  void each_factor(const tn_item& item, F&& f) const {
    if (item.n_states < 2) fail(TN_E_ARGUMENT, "mkor: an item came without its inverses");
    for (int k = 0; k < 2; ++k) {
      const int64_t size = parameters_.at(item.uid).info.shape[k];
      check_count(*item.states[k], size * size, "an inverse");
      if (same(dtype_, kF32))
        f(contiguous<float>(item.states[k], "an inverse"), size, k == 0);
      else
        f(contiguous<f16>(item.states[k], "an inverse"), size, k == 0);
    }
  }
  Matrix factor_matrix(const tn_item& item, int k, int64_t size) const { return Matrix::dense(data<char>(*item.states[k]), dtype_, size, size); }

  Inner inner_;
  int64_t frequency_, warmup_;
  InverseSettings settings_;
  tn_dtype dtype_;
  Hybrid hybrid_;
  Parameters parameters_;
  std::set<uint32_t> taken_;
};

constexpr tn_optimizer_api kApi = optimizer_api<Mkor>();
constexpr tn_observe kObserve = {TN_SIZE_TO(tn_observe, observe), 0, [](tn_optimizer* self, const tn_exec* exec, const tn_item* item, const tn_tap* tap) -> int32_t {
                                   using F = OptimizerThunks<Mkor>;
                                   return guard(F::of(self)->host, [&] { F::of(self)->rule.observe(exec, *item, *tap); });
                                 }};
constexpr tn_loss kLoss = {TN_SIZE_TO(tn_loss, seen), 0, [](tn_optimizer* self, const tn_step*, double loss) -> int32_t {
                             using F = OptimizerThunks<Mkor>;
                             return guard(F::of(self)->host, [&] { F::of(self)->rule.see(loss); });
                           }};
const void* extension(const char* id) {
  const std::string_view name(id);
  return name == TN_EXT_OBSERVE ? static_cast<const void*>(&kObserve) : name == TN_EXT_LOSS ? &kLoss : nullptr;
}
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "mkor", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
