// Compacter: low-rank hypercomplex adapter layers (Karimi Mahabadi et al. 2021).
//
//   h' = h + up(gelu(down(h))) behind each attention and MLP sub-layer (Compacter++: MLP alone), down: d → d/f, up
//   back.
//
// Both maps are Σ_i R_i ⊗ (s_i t_iᵀ); the rules R [N, N, N] are shared by all adapters of the model, whose gradients
// add up in them.
#include <map>
#include <vector>

#include "kronecker.h"
#include "sdk/adapter.h"
#include "sdk/adapter/activation.h"
#include "sdk/adapter/declare.h"
#include "sdk/adapter/dropout.h"
#include "sdk/adapter/initial.h"
#include "sdk/adapter/settings.h"

namespace tenon::compacter {
namespace {

enum Slot : uint32_t { kX = 0, kZ = 1 };
enum Place : size_t {
  kRules,
  kDownS,
  kDownT,
  kDownBias,
  kUpS,
  kUpT,
  kUpBias
};  // of a call: the shared rules come first

constexpr tn_hyper_info kDivision =
    integer("hypercomplex_division", "4", 1, 64, nullptr, "N: summands, and the side of each rule");
constexpr tn_hyper_info kReduction =
    integer("reduction_factor", "32", 1, 65536, nullptr, "width of the model over width of the bottleneck");
constexpr tn_hyper_info kWhere =
    choice("placement", "both", "both|ffn", "behind attention and MLP, or behind the MLP alone (Compacter++)");
constexpr tn_hyper_info kNorms = flag("train_norms", "true", "the model's norm gains train too");
constexpr const tn_hyper_info* kHypers[] = {&kDivision, &kReduction, &kWhere, &kNorms};

struct Site {
  KroneckerMap down, up;
};

class Compacter {
 public:
  static constexpr uint32_t kCaps = 0;

  Compacter(const tn_host* host, const Hypers& hypers, const char* config_json)
      : settings_(host, hypers, kHypers, config_json, "COMPACTER") {}

  void supports(const tn_query& q) {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16)) fail(TN_E_UNSUPPORTED, "compacter computes in f32 or bf16");
  }

  void bind(const tn_site* const* sites, uint64_t n, const tn_adapter_sink& sink) {
    const int64_t N = settings_.integer("hypercomplex_division"), f = settings_.integer("reduction_factor");
    for (uint64_t i = 0; i < n; ++i) {
      const tn_site& s = *sites[i];
      if (s.place != TN_PLACE_SUBLAYER || (settings_.text("placement") == "ffn" && s.role != TN_ROLE_DOWN)) continue;
      const int64_t k = s.m / f;
      if (k < 1 || s.m % N != 0 || k % N != 0)
        fail(TN_E_ARGUMENT, "compacter: hypercomplex_division " + std::to_string(N) +
                                " must divide the model's width " + std::to_string(s.m) +
                                " and the bottleneck's, which is " + std::to_string(s.m) + "/" + std::to_string(f) +
                                " = " + std::to_string(k) + "; choose another reduction_factor");
      if (sites_.empty()) add(sink, Kind::kRules, -1, {N, N * N}, "base_model.model.phm_rule", N);
      sites_[s.id] = {{N, s.m, k}, {N, k, s.m}};
      check(sink.site(sink.self, s.id, TN_RETAIN_INPUT));
      const auto at = static_cast<int32_t>(s.id);
      const auto key = [&](const char* tensor) { return peft_key(s, tensor); };
      add(sink, Kind::kFactor, at, {N, s.m / N}, key("adapter.down_sampler.W_left"), s.m / N);
      add(sink, Kind::kFactor, at, {N, k / N}, key("adapter.down_sampler.W_right"), k / N);
      add(sink, Kind::kBias, at, {k, 0}, key("adapter.down_sampler.b"), 0);
      add(sink, Kind::kFactor, at, {N, k / N}, key("adapter.up_sampler.W_left"), k / N);
      add(sink, Kind::kFactor, at, {N, s.m / N}, key("adapter.up_sampler.W_right"), s.m / N);
      add(sink, Kind::kBias, at, {s.m, 0}, key("adapter.up_sampler.b"), 0);
    }
    if (sites_.empty()) fail(TN_E_NOT_FOUND, "compacter sits behind sub-layers, and this host offers none");
    if (settings_.flag("train_norms") && TN_HAS(&sink, tn_adapter_sink, train) && sink.train)
      check(sink.train(sink.self, TN_ROLE_NORM));
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t site, int64_t rows, tn_dtype compute,
                bool backward, tn_estimate& out) {
    const Site& f = at(site);
    Scratch s(api, device, compute);
    const Matrix x = Matrix::dense(nullptr, compute, rows, f.down.in);
    if (backward)
      run_backward(s, f, nullptr, x, x, &x);
    else
      run_forward(s, f, nullptr, x, &x);
    out.saved_bytes = backward ? 0 : aligned(static_cast<uint64_t>(rows * f.down.out * (compute.bits / 8)));
    out.state_bytes = static_cast<uint64_t>(3 * (f.down.in + f.down.out)) * 4;
    out.workspace_bytes = aligned(s.peak());
    out.flops = s.flops();
    out.bytes_moved = static_cast<double>(rows * f.down.in) * 2 * compute.bits / 8;
  }

  void init_param(const tn_exec* exec, uint32_t param, const tn_base_linear*, const tn_rng& rng, tn_tensor& value) {
    const auto [kind, fan] = params_.at(param);
    float* w = contiguous<float>(&value, "a parameter of compacter");
    const int64_t n = count(value);
    if (kind == Kind::kRules) return fill_normal(exec, rng, 0.01f, w, n);
    if (kind == Kind::kBias) return fill_constant(exec, 0, w, n);
    const float bound =
        std::sqrt(6.0f / static_cast<float>(fan + 1));  // Glorot: each s_i, t_i a matrix with one side of 1
    for_each(exec, n, [=] TN_KERNEL(int64_t i) { w[i] = bound * (2 * uniform(rng, i) - 1); });
  }

  void forward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& x,
               tn_tensor* y) {
    if (y) check(base.forward(base.self, &x, 1, 0, y));
    if (x.shape[0] == 0) return;
    Scratch s(*call.exec, x.dtype);
    const Matrix out = y ? Matrix::of(*y) : Matrix();
    run_forward(s, at(site), &call, Matrix::of(x), y ? &out : nullptr);
  }

  void backward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& dy,
                double beta, tn_tensor* dx) {
    if (dx) check(base.backward(base.self, &dy, 1, beta, dx));
    if (dy.shape[0] == 0) return;
    Scratch s(*call.exec, dy.dtype);
    const Matrix to = dx ? Matrix::of(*dx) : Matrix();
    const tn_saved* x = nullptr;
    check(call.saver->get(call.saver->self, kX, &x));
    run_backward(s, at(site), &call, Matrix::of(*x->tensor), Matrix::of(dy), dx ? &to : nullptr);
  }

  void write_config(const tn_sink& sink) { settings_.write(sink); }

  // What serves the functions above, public for nvcc, which takes kernels nowhere else.

  enum class Kind { kRules, kFactor, kBias };

  void add(const tn_adapter_sink& sink, Kind kind, int32_t site, std::array<int64_t, 2> shape, const std::string& key,
           int64_t fan) {
    declare_param(sink, static_cast<uint32_t>(params_.size()), site, kTrained, shape, key, 1,
                  kind == Kind::kBias ? 0 : 1);
    params_.emplace_back(kind, fan);
  }

  static KroneckerMap::Factors factors(const tn_adapter_call* call, bool up) {
    if (!call) return {};
    const auto value = [&](size_t place) {
      return contiguous<float>(call->params[place]->value, "a parameter of compacter");
    };
    return {value(kRules), value(up ? kUpS : kDownS), value(up ? kUpT : kDownT), value(up ? kUpBias : kDownBias)};
  }
  static KroneckerMap::Gradients gradients(const tn_adapter_call* call, bool up) {
    if (!call) return {};
    const auto grad = [&](size_t place) -> float* {
      tn_tensor* g = call->params[place]->grad;
      return g ? contiguous<float>(g, "a gradient of compacter") : nullptr;  // null: not trained in this call
    };
    return {grad(kRules), grad(up ? kUpS : kDownS), grad(up ? kUpT : kDownT), grad(up ? kUpBias : kDownBias)};
  }

  // y += strength · up(gelu(down(x))); saves x and down(x).
  void run_forward(Scratch& s, const Site& f, const tn_adapter_call* call, const Matrix& x, const Matrix* y) const {
    Matrix z = s.activations(x.rows, f.down.out);
    if (call && (call->flags & TN_CALL_SAVE)) {
      const int64_t shape[2] = {x.rows, f.down.out};
      tn_tensor* saved = nullptr;
      check(call->saver->alloc(call->saver->self, kZ, 2, shape, &x.dtype, &saved));
      check(call->saver->keep_input(call->saver->self, kX));
      z = Matrix::of(*saved);
    }
    f.down.forward(s, factors(call, false), x, z);
    if (!y) return;
    const Matrix active = s.activations(x.rows, f.down.out), out = s.activations(x.rows, f.up.out);
    if (call) gelu_forward(s.exec(), z, active);
    f.up.forward(s, factors(call, true), active, out);
    if (call) add_scaled(s.exec(), call->scale, out, *y);
  }

  void run_backward(Scratch& s, const Site& f, const tn_adapter_call* call, const Matrix& x, const Matrix& dy,
                    const Matrix* dx) const {
    const Matrix active = s.activations(x.rows, f.down.out), d_active = s.activations(x.rows, f.down.out),
                 wide = s.activations(x.rows, f.down.in);
    Matrix z = active;
    if (call) {
      const tn_saved* saved = nullptr;
      check(call->saver->get(call->saver->self, kZ, &saved));
      z = Matrix::of(*saved->tensor);
      gelu_forward(s.exec(), z, active);
      scale_into(s, call->scale, dy, wide);
    }
    f.up.backward(s, factors(call, true), gradients(call, true), active, wide, &d_active);
    if (call) gelu_backward(s.exec(), d_active, z, d_active);
    f.down.backward(s, factors(call, false), gradients(call, false), x, d_active, dx ? &wide : nullptr);
    if (call && dx) add_scaled(s.exec(), 1, wide, *dx);
  }

  static void scale_into(Scratch& s, double factor, const Matrix& from, const Matrix& to) {
    const float k = static_cast<float>(factor);
    TN_TYPED(T, from.dtype, "the gradient",
      const T* in = static_cast<const T*>(from.data);
      T* out = static_cast<T*>(to.data);
      for_each(s.exec(), from.rows * from.columns, [=] TN_KERNEL(int64_t i) { out[i] = from_float<T>(k * to_float(in[i])); }););
  }

  const Site& at(uint32_t site) const {
    const auto it = sites_.find(site);
    if (it == sites_.end()) fail(TN_E_ARGUMENT, "compacter did not take site " + std::to_string(site));
    return it->second;
  }

 private:
  Settings settings_;
  std::map<uint32_t, Site> sites_;
  std::vector<std::pair<Kind, int64_t>> params_;
};

constexpr tn_adapter_api kApi = adapter_api<Compacter>();
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "compacter", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::compacter

TENON_PLUGIN(tenon::compacter::kPlugin)
