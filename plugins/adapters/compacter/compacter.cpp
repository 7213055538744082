// Compacter: low-rank hypercomplex adapter layers (Karimi Mahabadi et al. 2021).
//
//   h' = h + gate(h) ⊙ up(gelu(down(h))) behind each attention and MLP sub-layer (Compacter++: MLP alone), down: d → d/f, up
//   back.
//
// Both maps are Σ_i R_i ⊗ (s_i t_iᵀ); the rules R [N, N, N] are shared by all adapters of the model, whose gradients
// add up in them.
#include <vector>

#include "gate.h"
#include "sdk/adapter.h"
#include "sdk/adapter/call.h"
#include "sdk/adapter/declare.h"
#include "sdk/adapter/dropout.h"
#include "sdk/adapter/initial.h"
#include "sdk/adapter/settings.h"
#include "sdk/adapter/sites.h"

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
  kUpBias,
  kGate  // and what follows, by the kind of gate
};  // of a call: the shared rules come first

constexpr tn_hyper_info kDivision =
    integer("hypercomplex_division", "4", 1, 64, nullptr, "N: summands, and the side of each rule");
constexpr tn_hyper_info kReduction =
    integer("reduction_factor", "32", 1, 65536, nullptr, "width of the model over width of the bottleneck");
constexpr tn_hyper_info kWhere =
    choice("placement", "both", "both|ffn", "behind attention and MLP, or behind the MLP alone (Compacter++)");
constexpr tn_hyper_info kNorms = flag("train_norms", "true", "the model's norm gains train too");
constexpr tn_hyper_info kDropout =
    real("dropout", "0", 0, 1, TN_RANGE_OPEN_MAX, nullptr, "share of the bottleneck's activations dropped in training");
constexpr tn_hyper_info kGateHyper =
    choice("gate", "none", "none|channel|token|large",
           "multiplies the output by a sigmoid of one logit a channel, a token, or an element by a second bottleneck");
constexpr const tn_hyper_info* kHypers[] = {&kDivision, &kReduction, &kWhere, &kNorms, &kDropout, &kGateHyper};

GateKind gate_kind(const std::string& name) {
  return name == "channel" ? GateKind::kChannel
         : name == "token" ? GateKind::kToken
         : name == "large" ? GateKind::kLarge
                           : GateKind::kNone;
}

struct Site {
  KroneckerMap down, up;
  Gate gate;
};

class Compacter {
 public:
  static constexpr uint32_t kCaps = 0;

  Compacter(const tn_host* host, const Hypers& hypers, const char* config_json)
      : settings_(host, hypers, kHypers, config_json, "COMPACTER"), dropout_(settings_.real("dropout")) {}

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
      const KroneckerMap down{N, s.m, k}, up{N, k, s.m};
      const GateKind gate = sites_.add(s.id, {down, up, {gate_kind(settings_.text("gate")), down, up}}).gate.kind;
      check(sink.site(sink.self, s.id, TN_RETAIN_INPUT));
      const auto at = static_cast<int32_t>(s.id);
      const auto key = [&](const char* tensor) { return peft_key(s, tensor); };
      const auto map = [&](const KroneckerMap& m, const std::string& name) {
        add(sink, Kind::kFactor, at, {N, m.p()}, key((name + ".W_left").c_str()), m.p());
        add(sink, Kind::kFactor, at, {N, m.q()}, key((name + ".W_right").c_str()), m.q());
        add(sink, Kind::kBias, at, {m.out, 0}, key((name + ".b").c_str()), 0);
      };
      map(down, "adapter.down_sampler"), map(up, "adapter.up_sampler");
      switch (gate) {
        case GateKind::kNone: break;
        case GateKind::kLarge: map(down, "adapter.gate_down_sampler"), map(up, "adapter.gate_up_sampler"); break;
        case GateKind::kToken:
        case GateKind::kChannel:
          add(sink, Kind::kBias, at, {s.m, 0}, key("adapter.gate.weight"), 0);
          if (gate == GateKind::kToken) add(sink, Kind::kBias, at, {1, 0}, key("adapter.gate.b"), 0);
      }
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
    out.state_bytes = static_cast<uint64_t>((f.gate.kind == GateKind::kLarge ? 6 : f.gate.kind == GateKind::kNone ? 3 : 4) *
                                            (f.down.in + f.down.out)) *
                      4;
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
    forward_beside(call, base, x, y, [&](Scratch& s, const Matrix& in, const Matrix* out) { run_forward(s, at(site), &call, in, out); });
  }

  void backward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& dy,
                double beta, tn_tensor* dx) {
    backward_beside(call, base, dy, beta, dx, [&](Scratch& s, const Matrix& d, const Matrix* to) {
      run_backward(s, at(site), &call, Matrix::of(*saved(call, kX)->tensor), d, to);
    });
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

  static const float* value(const tn_adapter_call* call, size_t place) {
    return contiguous<float>(call->params[place]->value, "a parameter of compacter");
  }
  static float* grad(const tn_adapter_call* call, size_t place) {
    tn_tensor* g = call->params[place]->grad;
    return g ? contiguous<float>(g, "a gradient of compacter") : nullptr;  // null: not trained in this call
  }
  // Of the map whose parameters begin at `place`.
  static KroneckerMap::Factors factors(const tn_adapter_call* call, size_t place) {
    if (!call) return {};
    return {value(call, kRules), value(call, place), value(call, place + 1), value(call, place + 2)};
  }
  static KroneckerMap::Gradients gradients(const tn_adapter_call* call, size_t place) {
    if (!call) return {};
    return {grad(call, kRules), grad(call, place), grad(call, place + 1), grad(call, place + 2)};
  }
  static Gate::Values gate_values(const tn_adapter_call* call, const Gate& gate) {
    if (!call) return {};
    if (gate.kind == GateKind::kLarge) return {nullptr, nullptr, factors(call, kGate), factors(call, kGate + 3)};
    return {value(call, kGate), gate.kind == GateKind::kToken ? value(call, kGate + 1) : nullptr, {}, {}};
  }
  static Gate::Gradients gate_gradients(const tn_adapter_call* call, const Gate& gate) {
    if (!call) return {};
    if (gate.kind == GateKind::kLarge) return {nullptr, nullptr, gradients(call, kGate), gradients(call, kGate + 3)};
    return {grad(call, kGate), gate.kind == GateKind::kToken ? grad(call, kGate + 1) : nullptr, {}, {}};
  }

  // dropout(gelu(z)).
  void activate(Scratch& s, const tn_adapter_call* call, const Matrix& z, const Matrix& out) const {
    if (!call) return;
    gelu_forward(s.exec(), z, out);
    if (dropout_.drops(*call)) dropout_.apply(*call, out, out, false);
  }

  // y += strength · gate ⊙ up(dropout(gelu(down(x)))); saves x and down(x).
  void run_forward(Scratch& s, const Site& f, const tn_adapter_call* call, const Matrix& x, const Matrix* y) const {
    Matrix z = s.activations(x.rows, f.down.out);
    if (call && (call->flags & TN_CALL_SAVE)) {
      const int64_t shape[2] = {x.rows, f.down.out};
      tn_tensor* saved = nullptr;
      check(call->saver->alloc(call->saver->self, kZ, 2, shape, &x.dtype, &saved));
      check(call->saver->keep_input(call->saver->self, kX));
      z = Matrix::of(*saved);
    }
    f.down.forward(s, factors(call, kDownS), x, z);
    if (!y) return;
    const Matrix active = s.activations(x.rows, f.down.out), out = s.activations(x.rows, f.up.out);
    activate(s, call, z, active);
    f.up.forward(s, factors(call, kUpS), active, out);
    if (f.gate.kind == GateKind::kNone) {
      if (call) add_scaled(s.exec(), call->scale, out, *y);
      return;
    }
    const Matrix logits = s.activations(x.rows, f.up.out);
    f.gate.logits(s, gate_values(call, f.gate), x, logits);
    if (call) Gate::add(s, call->scale, logits, out, *y);
  }

  void run_backward(Scratch& s, const Site& f, const tn_adapter_call* call, const Matrix& x, const Matrix& dy,
                    const Matrix* dx) const {
    const Matrix active = s.activations(x.rows, f.down.out), d_active = s.activations(x.rows, f.down.out),
                 wide = s.activations(x.rows, f.down.in);
    Matrix z = active, d_logits;
    if (call) {
      z = Matrix::of(*saved(*call, kZ)->tensor);
      scale_into(s, call->scale, dy, wide);
    }
    activate(s, call, z, active);
    if (f.gate.kind != GateKind::kNone) {
      d_logits = s.activations(x.rows, f.up.out);
      const uint64_t mark = s.mark();
      const Matrix out = s.activations(x.rows, f.up.out);
      f.up.forward(s, factors(call, kUpS), active, out);
      f.gate.logits(s, gate_values(call, f.gate), x, d_logits);
      if (call) Gate::split(s, out, d_logits, wide);
      s.release(mark);
    }
    f.up.backward(s, factors(call, kUpS), gradients(call, kUpS), active, wide, &d_active);
    if (call) {
      if (dropout_.drops(*call)) dropout_.apply(*call, d_active, d_active, false);
      gelu_backward(s.exec(), d_active, z, d_active);
    }
    f.down.backward(s, factors(call, kDownS), gradients(call, kDownS), x, d_active, dx ? &wide : nullptr);
    if (call && dx) add_scaled(s.exec(), 1, wide, *dx);
    if (f.gate.kind != GateKind::kNone)
      f.gate.backward(s, gate_values(call, f.gate), gate_gradients(call, f.gate), x, d_logits, dx);
  }

  static void scale_into(Scratch& s, double factor, const Matrix& from, const Matrix& to) {
    const float k = static_cast<float>(factor);
    TN_TYPED(T, from.dtype, "the gradient",
      const T* in = static_cast<const T*>(from.data);
      T* out = static_cast<T*>(to.data);
      for_each(s.exec(), from.rows * from.columns, [=] TN_KERNEL(int64_t i) { out[i] = from_float<T>(k * to_float(in[i])); }););
  }

  const Site& at(uint32_t site) const { return sites_.at(site); }

 private:
  Settings settings_;
  Dropout dropout_;
  Sites<Site> sites_{"compacter"};
  std::vector<std::pair<Kind, int64_t>> params_;
};

constexpr tn_adapter_api kApi = adapter_api<Compacter>();
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "compacter", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::compacter

TENON_PLUGIN(tenon::compacter::kPlugin)
