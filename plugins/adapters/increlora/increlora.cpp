// IncreLoRA (Zhang et al. 2023): ΔW = s B diag(E) A with a rank that grows during training.
//
// Each module has ρ active ranks and `h` reserve ranks behind them, whose A and B train while their E stays at 1e-5.
// Every `interval` steps the modules of the largest smoothed importance Σ|ΔW ⊙ dΔW|/√(mn) get h more: their reserve
// becomes active, a fresh one is appended.
#include <algorithm>
#include <cmath>
#include <vector>

#include "ranks.h"
#include "sdk/adapter.h"
#include "sdk/adapter/call.h"
#include "sdk/adapter/declare.h"
#include "sdk/adapter/initial.h"
#include "sdk/adapter/scratch.h"
#include "sdk/adapter/settings.h"
#include "sdk/adapter/sites.h"
#include "sdk/adapter/targets.h"
#include "tenon/steps.h"

namespace tenon::increlora {
namespace {

using namespace tenon::sdk;

enum Slot : uint32_t { kU = 0, kX = 1 };
enum Place : size_t { kA, kB, kE, kScore, kPlaces };
constexpr int64_t kPanelBytes = 4 << 20;
constexpr float kReserve = 1e-5f;

constexpr tn_hyper_info kR = integer("init_r", "1", 1, 65536, nullptr, "rank of every module at the start");
constexpr tn_hyper_info kTarget = real("target_r", "4", 1, 65536, 0, nullptr, "average rank in the end");
constexpr tn_hyper_info kIncrement =
    integer("increment", "2", 1, 65536, nullptr, "ranks a module gets at a time, and its reserve");
constexpr tn_hyper_info kTop = integer("top_h", "2", 1, 65536, nullptr, "modules that get ranks at a time");
constexpr tn_hyper_info kWarmup =
    integer("init_warmup", "50", 0, 1 << 30, "steps", "steps before the first ranks are given");
constexpr tn_hyper_info kInterval =
    integer("incre_interval", "10", 1, 1 << 30, "steps", "steps from one giving to the next");
constexpr tn_hyper_info kBeta =
    real("beta", "0.85", 0, 1, TN_RANGE_OPEN_MAX, nullptr, "smoothing of importances and of their uncertainty");
constexpr tn_hyper_info kAlpha =
    real("lora_alpha", "16", 0, kInfinity, TN_RANGE_OPEN_MIN | TN_RANGE_OPEN_MAX, nullptr, "strength of the delta");
constexpr tn_hyper_info kScaleMode =
    choice("scale_mode", "fixed", "fixed|rank",
           "lora_alpha / target_r, or lora_alpha / rank, which jumps when the rank grows");
constexpr tn_hyper_info kScoreEvery = integer("score_every", "4", 1, 1 << 20, "steps",
                                              "importance costs a whole weight gradient, so not every step takes it");
constexpr tn_hyper_info kOrth =
    real("orth_reg", "0.1", 0, kInfinity, TN_RANGE_OPEN_MAX, nullptr, "weight of mean ‖A Aᵀ − I‖ + ‖Bᵀ B − I‖");
constexpr tn_hyper_info kTargets = target_modules("all-linear");
constexpr const tn_hyper_info* kHypers[] = {&kR,        &kTarget,  &kIncrement,     &kTop,       &kWarmup,
                                            &kInterval, &kBeta,    &kAlpha,         &kScaleMode, &kScoreEvery,
                                            &kOrth,     &kTargets, &kExcludeModules};

struct Site {
  size_t order;
  int64_t m, n;
  std::string path;
  int64_t panel() const { return std::clamp<int64_t>(kPanelBytes / (n * 4), 1, m); }
};

class IncreLora {
 public:
  static constexpr uint32_t kCaps = TN_ADAPTER_MERGES | TN_ADAPTER_SURROGATE_GRADIENT;

  IncreLora(const tn_host* host, const Hypers& hypers, const char* config_json)
      : settings_(host, hypers, kHypers, config_json, "INCRELORA"), targets_(settings_.selection) {}

  void supports(const tn_query& q) {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16)) fail(TN_E_UNSUPPORTED, "increlora computes in f32 or bf16");
  }

  void bind(const tn_site* const* sites, uint64_t n, const tn_adapter_sink& sink) {
    targets_.refuse_lookups("increlora", sites, n);
    for (uint64_t i = 0; i < n; ++i) {
      const tn_site& s = *sites[i];
      if (s.place != TN_PLACE_LINEAR || s.role == TN_ROLE_HEAD || !targets_.takes(s)) continue;
      const int64_t rank = targets_.rank_of(s.path, settings_.integer("init_r")), columns = rank + reserve();
      const auto id = static_cast<uint32_t>(sites_.size() * kPlaces);
      sites_.add(s.id, {sites_.size(), s.m, s.n, s.path});
      check(sink.site(sink.self, s.id, TN_RETAIN_INPUT));
      const auto at = static_cast<int32_t>(s.id);
      declare_param(sink, id + kA, at, kTrained, {columns, s.n}, peft_key(s, "lora_A"));
      declare_param(sink, id + kB, at, kTrained, {s.m, columns}, peft_key(s, "lora_B"));
      declare_param(sink, id + kE, at, kTrained, {columns, 0}, peft_key(s, "lora_E"), 1, 0);
      declare_param(sink, id + kScore, at, TN_ADAPTER_PARAM_SAVED, {1, 0}, peft_key(s, "score"));
      ranks_.active.push_back(rank);
    }
    if (sites_.empty()) targets_.none_taken(sites, n);
    ranks_.mean.assign(sites_.size(), 0), ranks_.uncertainty.assign(sites_.size(), 0);
    ranks_.budget =
        std::max(ranks_.total(),
                 static_cast<int64_t>(std::llround(settings_.real("target_r") * static_cast<double>(sites_.size()))));
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t site, int64_t rows, tn_dtype compute,
                bool backward, tn_estimate& out) {
    const Site& f = at(site);
    Scratch s(api, device, compute);
    const Matrix x = Matrix::dense(nullptr, compute, rows, f.n), y = Matrix::dense(nullptr, compute, rows, f.m);
    if (backward)
      run_backward(s, f, nullptr, y, &x);
    else
      run_forward(s, f, nullptr, x, &y);
    if (!backward) merge(s, f, nullptr, 0, Matrix::dense(nullptr, std::min(rows, f.m), f.n));
    out.saved_bytes = backward ? 0 : aligned(static_cast<uint64_t>(rows * columns(f) * (compute.bits / 8)));
    out.state_bytes = static_cast<uint64_t>(columns(f) * (f.m + f.n + 1)) * 4;
    out.workspace_bytes = aligned(s.peak());
    out.flops = s.flops();
    out.bytes_moved = static_cast<double>(rows * (2 * f.m + f.n)) * compute.bits / 8;
  }

  void init_param(const tn_exec* exec, uint32_t param, const tn_base_linear*, const tn_rng& rng, tn_tensor& value) {
    float* w = contiguous<float>(&value, "a parameter of increlora");
    const Site& f = sites_.taken(param / kPlaces);
    switch (param % kPlaces) {
      case kScore:
        return fill_constant(exec, 0, w, 1);
      case kE: {
        const int64_t active = ranks_.active[f.order];
        return for_each(exec, count(value), [=] TN_KERNEL(int64_t i) { w[i] = i < active ? 0.0f : kReserve; });
      }
      default:
        fill_normal(exec, rng, 0.02f, w, count(value));
    }
  }

  void forward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& x,
               tn_tensor* y) {
    forward_beside(call, base, x, y, [&](Scratch& s, const Matrix& in, const Matrix* out) { run_forward(s, at(site), &call, in, out); });
  }
  void backward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& dy,
                double beta, tn_tensor* dx) {
    backward_beside(call, base, dy, beta, dx, [&](Scratch& s, const Matrix& d, const Matrix* to) { run_backward(s, at(site), &call, d, to); });
  }
  void merge_rows(const tn_exec* exec, uint32_t site, const tn_param_view* const* params, uint64_t, int64_t begin,
                  int64_t, tn_tensor& w) {
    Scratch s(*exec, kF32);
    merge(s, at(site), params, begin, Matrix::of(w));
  }
  void write_config(const tn_sink& sink) {
    Settings now = settings_;
    now.selection.rank_pattern.clear();
    for (const uint32_t id : sites_.ids()) now.selection.rank_pattern.emplace_back(at(id).path, ranks_.active[at(id).order]);
    now.write(sink);
  }

  void step_end(const tn_exec* exec, int64_t step, const tn_param_view* const* params, const tn_rng& rng,
                const tn_grow_sink& sink) {
    if (ranks_.complete()) return;
    if (step % settings_.integer("score_every") == 0) {
      std::vector<double> scores;
      for (size_t i = 0; i < sites_.size(); ++i) {
        float score = 0;
        float* on_device = contiguous<float>(params[i * kPlaces + kScore]->value, "the score");
        check(exec->api->copy(exec->device, exec->stream, &score, on_device, 4, TN_COPY_TO_HOST));
        check(exec->api->stream_wait(exec->device, exec->stream));
        scores.push_back(score);
        fill_constant(exec, 0, on_device, 1);
      }
      ranks_.observe(scores, settings_.real("beta"));
    }
    const int64_t since = step - settings_.integer("init_warmup");
    if (since < 0 || since % settings_.integer("incre_interval") != 0) return;
    for (const auto& [order, given] : ranks_.give(settings_.integer("top_h"), reserve()))
      grow(exec, order, given, rng, sink);
    if (!ranks_.complete()) return;
    for (size_t i = 0; i < sites_.size(); ++i) {  // nobody will need the reserves
      tn_tensor* e = nullptr;                     // as it is now: this step may have grown it
      const int64_t active = ranks_.active[i], all = columns(sites_.taken(i));
      check(sink.grow(sink.self, static_cast<uint32_t>(i * kPlaces + kE), 0, all, &e));
      float* w = contiguous<float>(e, "lora_E");
      for_each(exec, all, [=] TN_KERNEL(int64_t k) {
        if (k >= active) w[k] = 0;
      });
    }
  }
  // All that the budget has left, to the modules whose ranks cost most.
  void largest(const tn_grow_sink& sink) {
    std::vector<size_t> order(sites_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return size_of(a) > size_of(b); });
    const int64_t meetings =
        1 + (ranks_.budget - ranks_.total()) / std::max<int64_t>(1, settings_.integer("top_h") * reserve());
    for (const size_t i : order) {
      const int64_t n = std::min(ranks_.budget - ranks_.total(), meetings * reserve());
      ranks_.active[i] += n;
      resize(i, sink, nullptr);
    }
  }
  void save(const tn_sink& sink) const {
    const std::vector<uint8_t> bytes = ranks_.bytes();
    check(sink.write(sink.self, bytes.data(), bytes.size()));
  }
  void load(const void* bytes, uint64_t n, const tn_grow_sink& sink) {
    ranks_.load(bytes, n);
    for (size_t i = 0; i < sites_.size(); ++i) resize(i, sink, nullptr);
  }

  // What serves the functions above, public for nvcc, which takes kernels nowhere else.

  int64_t reserve() const { return settings_.integer("increment"); }
  int64_t columns(const Site& f) const { return ranks_.active[f.order] + reserve(); }
  int64_t size_of(size_t order) const { return sites_.taken(order).m + sites_.taken(order).n; }
  double scale(const Site& f) const {
    const double alpha = targets_.alpha_of(f.path, settings_.real("lora_alpha"));
    return alpha / (settings_.text("scale_mode") == "fixed" ? settings_.real("target_r")
                                                            : static_cast<double>(ranks_.active[f.order]) + 1e-5);
  }

  struct Grown {
    tn_tensor *a = nullptr, *b = nullptr, *e = nullptr;
  };
  // Brings the parameters of a module to the shape that its rank asks for.
  void resize(size_t order, const tn_grow_sink& sink, Grown* out) const {
    const auto id = static_cast<uint32_t>(order * kPlaces);
    const int64_t now = columns(sites_.taken(order));
    Grown g;
    check(sink.grow(sink.self, id + kA, 0, now, &g.a)), check(sink.grow(sink.self, id + kB, 1, now, &g.b)),
        check(sink.grow(sink.self, id + kE, 0, now, &g.e));
    if (out) *out = g;
  }
  void grow(const tn_exec* exec, size_t order, int64_t given, const tn_rng& rng, const tn_grow_sink& sink) const {
    const Site& f = sites_.taken(order);
    Grown g;
    resize(order, sink, &g);
    const int64_t now = columns(f), before = now - given;
    float *a = contiguous<float>(g.a, "lora_A"), *b = contiguous<float>(g.b, "lora_B"),
          *e = contiguous<float>(g.e, "lora_E");
    const tn_rng for_a{rng.seed, rng.uid ^ static_cast<uint32_t>(order << 8), rng.stream},
        for_b{rng.seed, for_a.uid ^ 1u, rng.stream};
    const int64_t n = f.n, fresh = given;
    for_each(exec, fresh * n, [=] TN_KERNEL(int64_t i) { a[before * n + i] = 0.02f * normal(for_a, i); });
    for_each(exec, f.m * fresh, [=] TN_KERNEL(int64_t i) { b[i / fresh * now + before + i % fresh] = 0.02f * normal(for_b, i); });
    for_each(exec, fresh, [=] TN_KERNEL(int64_t i) { e[before + i] = kReserve; });
  }

  Matrix view(const tn_param_view* const* params, Place place, int64_t rows, int64_t columns_of) const {
    return params ? Matrix::of(*params[place]->value) : Matrix::dense(nullptr, rows, columns_of);
  }

  // to[t, k] = E_k · from[t, k].
  static void times_e(Scratch& s, const float* e, const Matrix& from, const Matrix& to) {
    const int64_t n = from.columns;
    const int64_t stride = from.row_stride;
    TN_TYPED(T, from.dtype, "a factor",
      const T* in = static_cast<const T*>(from.data);
      T* out = static_cast<T*>(to.data);
      for_each(s.exec(), from.rows * n,
               [=] TN_KERNEL(int64_t i) { out[i] = from_float<T>(e[i % n] * to_float(in[i / n * stride + i % n])); }););
  }

  void run_forward(Scratch& s, const Site& f, const tn_adapter_call* call, const Matrix& x, const Matrix* y) const {
    const int64_t r = columns(f);
    Matrix u = s.activations(x.rows, r);
    const Matrix v = s.activations(x.rows, r);
    if (call && (call->flags & TN_CALL_SAVE)) {
      const int64_t shape[2] = {x.rows, r};
      tn_tensor* saved = nullptr;
      check(call->saver->alloc(call->saver->self, kU, 2, shape, &x.dtype, &saved));
      check(call->saver->keep_input(call->saver->self, kX));
      u = Matrix::of(*saved);
    }
    const tn_param_view* const* params = call ? call->params : nullptr;
    s.product(1, x, view(params, kA, r, f.n).transposed(), 0, u);
    if (!y) return;
    if (call) times_e(s, contiguous<float>(params[kE]->value, "lora_E"), u, v);
    s.product(scale(f) * (call ? call->scale : 1), v, view(params, kB, f.m, r).transposed(), 1, *y);
  }

  void run_backward(Scratch& s, const Site& f, const tn_adapter_call* call, const Matrix& dy, const Matrix* dx) const {
    const int64_t r = columns(f), active = ranks_.active[f.order];
    const tn_param_view* const* params = call ? call->params : nullptr;
    const double factor = scale(f) * (call ? call->scale : 1);
    const Matrix dv = s.activations(dy.rows, r), du = s.activations(dy.rows, r);
    const Matrix a = view(params, kA, r, f.n), b = view(params, kB, f.m, r);
    Matrix u = dv, x = Matrix::dense(nullptr, dy.dtype, dy.rows, f.n);
    s.product(factor, dy, b, 0, dv);
    const bool learns = !call || call->params[kA]->grad;
    const float* e = call ? contiguous<float>(params[kE]->value, "lora_E") : nullptr;
    if (learns) {
      if (call)
        u = Matrix::of(*saved(*call, kU)->tensor), x = Matrix::of(*saved(*call, kX)->tensor), times_e(s, e, u, du);
      s.product(factor, dy.transposed(), du, 1, call ? Matrix::of(*call->params[kB]->grad) : b);
      if (call) e_gradient(s, dv, u, active, contiguous<float>(call->params[kE]->grad, "the gradient of lora_E"));
    }
    if (call) times_e(s, e, dv, du);
    if (learns) s.product(1, du.transposed(), x, 1, call ? Matrix::of(*call->params[kA]->grad) : a);
    if (dx) s.product(1, du, a, 1, *dx);
    if (!learns) return;
    if (!call ||
        (call->step % settings_.integer("score_every") == 0 && !ranks_.complete() && (call->flags & TN_CALL_TRAIN)))
      score(s, f, call, x, dy);
    if (!call || (call->micro_batch == 0 && call->row_begin == 0 && settings_.real("orth_reg") > 0 &&
                  (call->flags & TN_CALL_TRAIN)))
      orthogonalise(s, f, call);
  }

  // dE_k += Σ_t dV U of the active ranks; the reserve's E stand still.
  static void e_gradient(Scratch& s, const Matrix& dv, const Matrix& u, int64_t active, float* out) {
    const int64_t rows = dv.rows, dv_stride = dv.row_stride, u_stride = u.row_stride;
    TN_TYPED(T, dv.dtype, "a factor's gradient",
      const T *g = static_cast<const T*>(dv.data), *v = static_cast<const T*>(u.data);
      for_each_block(
          s.exec(), active,
          [=] TN_KERNEL(const Block& b) {
            const int64_t k = b.index;
            const double sum = b.sum(
                rows, [=](int64_t t) { return static_cast<double>(to_float(g[t * dv_stride + k])) * to_float(v[t * u_stride + k]); });
            b.each(1, [=](int64_t) { out[k] += static_cast<float>(sum); });
          },
          rows););
  }

  // score += Σ|ΔW ⊙ dYᵀX| / √(mn), in panels of rows; neither matrix is ever whole.
  void score(Scratch& s, const Site& f, const tn_adapter_call* call, const Matrix& x, const Matrix& dy) const {
    const uint64_t mark = s.mark();
    const Matrix delta = s.matrix(kF32, f.panel(), f.n), g = s.matrix(kF32, f.panel(), f.n);
    float* sums = s.take<float>(f.m);
    for (int64_t begin = 0; begin < f.m; begin += f.panel()) {
      const int64_t rows = std::min(f.panel(), f.m - begin);
      const Matrix d = delta.row_block(0, rows), part = g.row_block(0, rows);
      if (call) fill_constant(s.exec(), 0, static_cast<float*>(d.data), rows * f.n);
      merge(s, f, call ? call->params : nullptr, begin, d);
      s.product(1, dy.column_block(begin, rows).transposed(), x, 0, part);
      if (call) {
        const float *dw = static_cast<float*>(d.data), *gw = static_cast<float*>(part.data);
        const int64_t n = f.n;
        for_each_block(
            s.exec(), rows,
            [=] TN_KERNEL(const Block& b) {
              sums[begin + b.index] = static_cast<float>(b.sum(n, [=](int64_t j) {
                return static_cast<double>(std::fabs(dw[b.index * n + j] * gw[b.index * n + j]));
              }));
            },
            n);
      }
      if (!call) begin = std::max(begin, (f.m - 1) / f.panel() * f.panel() - f.panel());
    }
    if (call) {
      float* out = contiguous<float>(call->params[kScore]->value, "the score");
      const double norm = std::sqrt(static_cast<double>(f.m) * static_cast<double>(f.n));
      const int64_t m = f.m;
      for_each_block(s.exec(), 1, [=] TN_KERNEL(const Block& b) {
        const double sum = b.sum(m, [=](int64_t i) { return static_cast<double>(sums[i]); });
        b.each(1, [=](int64_t) { out[0] += static_cast<float>(sum / norm); });
      });
    }
    s.release(mark);
  }

  // The gradient of orth_reg · mean over modules of ‖A Aᵀ − I‖ + ‖Bᵀ B − I‖.
  void orthogonalise(Scratch& s, const Site& f, const tn_adapter_call* call) const {
    const int64_t r = columns(f);
    const uint64_t mark = s.mark();
    const Matrix gram = s.matrix(kF32, r, r);
    const tn_param_view* const* params = call ? call->params : nullptr;
    const Matrix a = view(params, kA, r, f.n), b = view(params, kB, f.m, r);
    for (const bool left : {true, false}) {
      if (left)
        s.product(1, a, a.transposed(), 0, gram);
      else
        s.product(1, b.transposed(), b, 0, gram);
      if (call) {
        float* g = static_cast<float*>(gram.data);
        const double weight = settings_.real("orth_reg") / static_cast<double>(sites_.size());
        for_each_block(s.exec(), 1, [=] TN_KERNEL(const Block& block) {
          block.each(r, [=](int64_t i) { g[i * (r + 1)] -= 1; });
          const double squares = block.sum(r * r, [=](int64_t i) { return static_cast<double>(g[i]) * g[i]; });
          const float factor = squares > 0 ? static_cast<float>(2 * weight / std::sqrt(squares)) : 0.0f;
          block.each(r * r, [=](int64_t i) { g[i] *= factor; });
        });
      }
      if (left)
        s.product(1, gram, a, 1, call ? Matrix::of(*call->params[kA]->grad) : a);
      else
        s.product(1, b, gram, 1, call ? Matrix::of(*call->params[kB]->grad) : b);
    }
    s.release(mark);
  }

  // w (f32) += rows [begin, begin + w.rows) of ΔW.
  void merge(Scratch& s, const Site& f, const tn_param_view* const* params, int64_t begin, const Matrix& w) const {
    const int64_t r = columns(f);
    const uint64_t mark = s.mark();
    const Matrix be = s.matrix(kF32, w.rows, r);
    if (params)
      times_e(s, contiguous<float>(params[kE]->value, "lora_E"), view(params, kB, f.m, r).row_block(begin, w.rows), be);
    s.product(scale(f), be, view(params, kA, r, f.n), 1, w);
    s.release(mark);
  }

  const Site& at(uint32_t site) const { return sites_.at(site); }

 private:
  Settings settings_;
  Targets targets_;
  Sites<Site> sites_{"increlora"};
  Ranks ranks_;
};

using Thunks = AdapterThunks<IncreLora>;
constexpr tn_adapter_steps kSteps{
    sizeof(tn_adapter_steps),
    0,
    [](tn_adapter* self, const tn_exec* exec, int64_t step, int64_t, const tn_param_view* const* params, uint64_t,
       const tn_rng* rng, const tn_grow_sink* sink) -> int32_t {
      return guard(Thunks::of(self)->host, [&] { Thunks::of(self)->method.step_end(exec, step, params, *rng, *sink); });
    },
    [](tn_adapter* self, const tn_grow_sink* sink) -> int32_t {
      return guard(Thunks::of(self)->host, [&] { Thunks::of(self)->method.largest(*sink); });
    },
    [](tn_adapter* self, const tn_sink* sink) -> int32_t {
      return guard(Thunks::of(self)->host, [&] { Thunks::of(self)->method.save(*sink); });
    },
    [](tn_adapter* self, const void* bytes, uint64_t n, const tn_grow_sink* sink) -> int32_t {
      return guard(Thunks::of(self)->host, [&] { Thunks::of(self)->method.load(bytes, n, *sink); });
    }};
const void* extension(const char* id) {
  return std::string_view(id) == TN_EXT_STEPS ? &kSteps : nullptr;
}
constexpr tn_adapter_api kApi = adapter_api<IncreLora>();
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "increlora", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::increlora

TENON_PLUGIN(tenon::increlora::kPlugin)
