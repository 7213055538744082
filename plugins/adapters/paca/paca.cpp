// PaCA: Partial Connection Adaptation (Woo et al. 2025).
//
//   W' = W but for the columns I, W'[:, I] = W[:, I] + s Δ,  Y = X W'ᵀ,  saved: X[:, I]
//   dX = dY W',  dΔ = s dYᵀ X[:, I]
//
// A dense weight is leased for the call and its columns are changed in place and back, bit for bit, so that forward is
// one product. Over any other storage, and below another adapter, the columns are a second, thin product: Y = X Wᵀ + s
// X[:, I] Δᵀ, the same function.
#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

#include "sdk/adapter.h"
#include "sdk/adapter/base.h"
#include "sdk/adapter/call.h"
#include "sdk/adapter/declare.h"
#include "sdk/adapter/scratch.h"
#include "sdk/adapter/settings.h"
#include "sdk/adapter/sites.h"
#include "sdk/adapter/targets.h"
#include "sdk/column_sums.h"
#include "sdk/philox.h"

namespace tenon::paca {
namespace {

using namespace tenon::sdk;

enum Slot : uint32_t { kColumns = 0, kX = 1 };
enum Place : size_t { kDelta, kIndex, kScore };  // kScore: with selection=gradient
constexpr int64_t kPanelBytes = 4 << 20;

constexpr tn_hyper_info kR = integer("r", "8", 1, 65536, nullptr, "columns that are trained");
constexpr tn_hyper_info kAlpha = real("paca_alpha", "8", 0, kInfinity, TN_RANGE_OPEN_MIN | TN_RANGE_OPEN_MAX, nullptr,
                                      "the columns' change is scaled by paca_alpha / r");
constexpr tn_hyper_info kSeed =
    integer("random_seed", "0", 0, 4294967295.0, nullptr, "of the choice of columns, mixed with the module's name");
constexpr tn_hyper_info kSelection =
    choice("selection", "random", "random|norm|gradient",
           "columns at random, those of the largest norm, or of the largest gradient in the first selection_steps");
constexpr tn_hyper_info kSteps = integer("selection_steps", "20", 1, 1 << 30, "steps",
                                         "with selection=gradient: steps that only watch gradients");
constexpr tn_hyper_info kTie =
    flag("tie_inputs", "true", "the same random columns for q, k, v and for gate, up, which read one input");
constexpr tn_hyper_info kInit = flag("init_weights", "true", "start as the base; false: small random changes");
constexpr tn_hyper_info kTargets = target_modules("all-linear");
constexpr const tn_hyper_info* kHypers[] = {&kR,   &kAlpha, &kSeed,    &kSelection,      &kSteps,
                                            &kTie, &kInit,  &kTargets, &kExcludeModules};

uint32_t crc32(const std::string& text) {
  uint32_t c = ~0u;
  for (const unsigned char byte : text) {
    c ^= byte;
    for (int k = 0; k < 8; ++k) c = c >> 1 ^ (c & 1 ? 0xEDB88320u : 0u);
  }
  return ~c;
}

struct Site {
  int64_t m, n, r;
  double scale;
  uint32_t seed;
  int64_t panel() const { return std::clamp<int64_t>(kPanelBytes / (n * 4), 1, m); }
};

class Paca {
 public:
  static constexpr uint32_t kCaps = TN_ADAPTER_MERGES;

  Paca(const tn_host* host, const Hypers& hypers, const char* config_json)
      : settings_(host, hypers, kHypers, config_json, "PACA"), targets_(settings_.selection) {}

  void supports(const tn_query& q) {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16)) fail(TN_E_UNSUPPORTED, "paca computes in f32 or bf16");
  }

  void bind(const tn_site* const* sites, uint64_t n, const tn_adapter_sink& sink) {
    targets_.refuse_lookups("paca", sites, n);
    for (uint64_t i = 0; i < n; ++i) {
      const tn_site& s = *sites[i];
      if (s.place != TN_PLACE_LINEAR || (s.flags & TN_LINEAR_OWNED) || !targets_.takes(s)) continue;
      const int64_t r = targets_.rank_of(s.path, settings_.integer("r"));
      if (r > s.n)
        fail(TN_E_ARGUMENT, std::string("paca: r is ") + std::to_string(r) + " but " + s.path + " has only " +
                                std::to_string(s.n) + " input columns; choose a smaller r or exclude the module");
      const uint32_t seed = static_cast<uint32_t>(settings_.integer("random_seed")) + crc32(name_of_input(s));
      const auto id = static_cast<uint32_t>(places() * sites_.size());
      sites_.add(s.id, {s.m, s.n, r, targets_.alpha_of(s.path, settings_.real("paca_alpha")) / static_cast<double>(r), seed});
      check(sink.site(sink.self, s.id, watches() ? TN_RETAIN_INPUT : TN_RETAIN_OWN));
      const auto at = static_cast<int32_t>(s.id);
      declare_param(sink, id + kDelta, at, kTrained, {s.m, r}, peft_key(s, "paca_delta"));
      declare_param(sink, id + kIndex, at, TN_ADAPTER_PARAM_SAVED | TN_ADAPTER_PARAM_INT32, {r, 0}, peft_key(s, "paca_indices"));
      if (watches()) declare_param(sink, id + kScore, at, TN_ADAPTER_PARAM_SAVED, {s.n, 0}, peft_key(s, "paca_score"));
    }
    if (sites_.empty()) targets_.none_taken(sites, n);
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t site, int64_t rows, tn_dtype compute,
                bool backward, tn_estimate& out) {
    const Site& f = at(site);
    Scratch s(api, device, compute);
    const Matrix x = Matrix::dense(nullptr, compute, rows, f.n), y = Matrix::dense(nullptr, compute, rows, f.m);
    if (backward)
      run_backward(s, site, f, nullptr, nullptr, y, 0, nullptr);
    else
      run_forward(s, f, nullptr, nullptr, x, nullptr);
    out.saved_bytes = backward || watches() ? 0 : aligned(static_cast<uint64_t>(rows * f.r * (compute.bits / 8)));
    out.state_bytes = static_cast<uint64_t>(f.m * f.r + f.r) * 4;
    out.workspace_bytes = aligned(s.peak());
    out.flops = s.flops();
    out.bytes_moved = static_cast<double>(rows) * static_cast<double>(f.m + 2 * f.r) * compute.bits / 8;
  }

  void init_param(const tn_exec* exec, uint32_t param, const tn_base_linear* base, const tn_rng& rng,
                  tn_tensor& value) {
    const Site& f = sites_.taken(param / places());
    if (param % places() == kScore) {
      float* score = contiguous<float>(&value, "paca_score");
      return for_each(exec, f.n, [=] TN_KERNEL(int64_t j) { score[j] = 0; });
    }
    if (param % places() == kDelta) {
      float* d = contiguous<float>(&value, "paca_delta");
      const float deviation = settings_.flag("init_weights") ? 0.0f : 0.02f;
      return for_each(exec, f.m * f.r, [=] TN_KERNEL(int64_t i) { d[i] = deviation == 0 ? 0.0f : deviation * normal(rng, i); });
    }
    choose(exec, f, *base, contiguous<int32_t>(&value, "paca_indices"));
  }

  void forward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& x,
               tn_tensor* y) {
    if (x.shape[0] == 0) return;
    if (watches() && (call.flags & TN_CALL_TRAIN)) choose_watched(call, site);
    Scratch s(*call.exec, x.dtype);
    run_forward(s, at(site), &call, &base, Matrix::of(x), y);
  }
  void backward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& dy,
                double beta, tn_tensor* dx) {
    if (dy.shape[0] == 0) return;
    Scratch s(*call.exec, dy.dtype);
    run_backward(s, site, at(site), &call, &base, Matrix::of(dy), beta, dx);
  }

  void merge_rows(const tn_exec* exec, uint32_t site, const tn_param_view* const* params, uint64_t, int64_t begin,
                  int64_t end, tn_tensor& w) {
    const Site& f = at(site);
    const float* delta = contiguous<float>(params[kDelta]->value, "paca_delta") + begin * f.r;
    const int32_t* index = contiguous<int32_t>(params[kIndex]->value, "paca_indices");
    float* to = contiguous<float>(&w, "the rows to merge into");
    const int64_t r = f.r, n = f.n;
    const float scale = static_cast<float>(f.scale);
    for_each(exec, (end - begin) * r, [=] TN_KERNEL(int64_t i) { to[i / r * n + index[i % r]] += scale * delta[i]; });
  }

  void write_config(const tn_sink& sink) { settings_.write(sink); }

  // What serves the functions above, public for nvcc, which takes kernels nowhere else.

  // Modules that read one input share their columns, and with them what is saved.
  std::string name_of_input(const tn_site& s) const {
    const std::string path = s.path;
    const bool shared = s.role == TN_ROLE_Q || s.role == TN_ROLE_K || s.role == TN_ROLE_V || s.role == TN_ROLE_GATE ||
                        s.role == TN_ROLE_UP;
    return settings_.flag("tie_inputs") && shared ? path.substr(0, path.rfind('.')) : path;
  }

  bool watches() const { return settings_.text("selection") == "gradient"; }
  size_t places() const { return watches() ? 3 : 2; }

  // After the first steps: the r largest of what was gathered in them. Sums below zero say that this was done, also in a run that resumes or goes on
  // from the file.
  void choose_watched(const tn_adapter_call& call, uint32_t site) {
    const bool now = call.step > settings_.integer("selection_steps");
    if (chosen_.contains(site) || (watched_.contains(site) && !now)) return;
    const Site& f = at(site);
    const tn_exec& e = *call.exec;
    float* score = contiguous<float>(call.params[kScore]->value, "paca_score");
    std::vector<float> squares(static_cast<size_t>(f.n));
    check(e.api->copy(e.device, e.stream, squares.data(), score, squares.size() * 4, TN_COPY_TO_HOST));
    check(e.api->stream_wait(e.device, e.stream));
    watched_.insert(site);
    if (squares[0] >= 0 && !now) return;
    chosen_.insert(site);
    if (squares[0] < 0) return;
    write(&e, f, by_size(squares), contiguous<int32_t>(call.params[kIndex]->value, "paca_indices"));
    for_each(&e, f.n, [=] TN_KERNEL(int64_t j) { score[j] = -1; });
  }
  static std::vector<int32_t> by_size(const std::vector<float>& squares) {
    std::vector<int32_t> order(squares.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return squares[a] > squares[b]; });
    return order;
  }
  // The first r of order, in ascending order.
  static void write(const tn_exec* exec, const Site& f, std::vector<int32_t> order, int32_t* index) {
    std::sort(order.begin(), order.begin() + f.r);
    check(exec->api->copy(exec->device, exec->stream, index, order.data(), static_cast<uint64_t>(f.r) * 4,
                          TN_COPY_TO_DEVICE));
    check(exec->api->stream_wait(exec->device, exec->stream));
  }

  // score[j] += Σ_i (dYᵀ X)²[i, j], in panels of rows; the gradient is never whole.
  static void watch(Scratch& s, const Site& f, const tn_adapter_call* call, const Matrix& dy, const Matrix& x) {
    const uint64_t mark = s.mark();
    const Matrix g = s.matrix(kF32, f.panel(), f.n);
    float* score = call ? contiguous<float>(call->params[kScore]->value, "paca_score") : nullptr;
    for (int64_t begin = 0; begin < f.m; begin += f.panel()) {
      const Matrix part = g.row_block(0, std::min(f.panel(), f.m - begin));
      s.product(1, dy.column_block(begin, part.rows).transposed(), x, 0, part);
      if (!call) continue;
      const float* from = static_cast<float*>(part.data);
      const int64_t n = f.n;
      column_sums(
          s.exec(), part.rows, n, [=] TN_KERNEL(int64_t i, int64_t j) { return static_cast<double>(from[i * n + j]) * from[i * n + j]; },
          [=] TN_KERNEL(int64_t j, double sum) { score[j] += static_cast<float>(sum); });
    }
    s.release(mark);
  }

  // r of n columns. The choice is made on the host, once.
  void choose(const tn_exec* exec, const Site& f, const tn_base_linear& base, int32_t* index) const {
    std::vector<int32_t> order(static_cast<size_t>(f.n));
    std::iota(order.begin(), order.end(), 0);
    if (settings_.text("selection") == "norm") {
      std::vector<float> squares(static_cast<size_t>(f.n));
      const uint64_t bytes = aligned(static_cast<uint64_t>(f.n) * 4);
      float* on_device = Workspace(*exec).take<float>(f.n);
      column_sqnorm(exec, base, on_device, bytes);
      check(
          exec->api->copy(exec->device, exec->stream, squares.data(), on_device, squares.size() * 4, TN_COPY_TO_HOST));
      check(exec->api->stream_wait(exec->device, exec->stream));
      order = by_size(squares);
    } else {
      const tn_rng rng{f.seed, 0, 0x50414341};
      for (int64_t i = 0; i < f.r; ++i) {  // the first r of a random permutation
        const int64_t j = i + static_cast<int64_t>(static_cast<double>(uniform(rng, static_cast<uint64_t>(i))) *
                                                   static_cast<double>(f.n - i));
        std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(std::min(j, f.n - 1))]);
      }
    }
    write(exec, f, std::move(order), index);
  }

  static bool leases(const tn_base_linear& base) {
    return TN_HAS(&base, tn_base_linear, release) && base.lease && base.release;
  }

  // w[:, I] += factor · Δ; what was there goes to `keep`.
  static void put_in(const tn_exec* exec, const Site& f, float factor, const Matrix& w, const float* delta, const int32_t* index, float* keep) {
    const int64_t r = f.r, rows = w.row_stride, columns = w.column_stride;
    TN_TYPED(T, w.dtype, "the weight",
      T* to = static_cast<T*>(w.data);
      T* old = reinterpret_cast<T*>(keep);
      for_each(exec, f.m * r, [=] TN_KERNEL(int64_t i) {
        T& o = to[i / r * rows + index[i % r] * columns];
        old[i] = o, o = from_float<T>(to_float(o) + factor * delta[i]);
      }););
  }
  static void put_back(const tn_exec* exec, const Site& f, const Matrix& w, const int32_t* index, const float* keep) {
    const int64_t r = f.r, rows = w.row_stride, columns = w.column_stride;
    TN_TYPED(T, w.dtype, "the weight",
      T* to = static_cast<T*>(w.data);
      const T* old = reinterpret_cast<const T*>(keep);
      for_each(exec, f.m * r, [=] TN_KERNEL(int64_t i) { to[i / r * rows + index[i % r] * columns] = old[i]; }););
  }

  // Calls `use` while the weight holds W[:, I] + s Δ.
  template <class Use>
  static void with_columns(const tn_exec* exec, const Site& f, double scale, const tn_base_linear& base,
                           const float* delta, const int32_t* index, float* keep, Use&& use) {
    tn_tensor* weight = nullptr;
    check(base.lease(base.self, &weight));
    const Matrix w = Matrix::of(*weight);
    put_in(exec, f, static_cast<float>(scale), w, delta, index, keep);
    use();
    put_back(exec, f, w, index, keep);
    check(base.release(base.self));
  }

  void run_forward(Scratch& s, const Site& f, const tn_adapter_call* call, const tn_base_linear* base, const Matrix& x,
                   tn_tensor* y) const {
    Matrix picked = s.activations(x.rows, f.r);
    float* keep = s.take<float>(f.m * f.r);
    if (!call)
      return s.product(1, picked, Matrix::dense(nullptr, f.m, f.r).transposed(), 1,
                       Matrix::dense(nullptr, x.dtype, x.rows, f.m));
    const int32_t* index = contiguous<int32_t>(call->params[kIndex]->value, "paca_indices");
    const Matrix delta = Matrix::of(*call->params[kDelta]->value);
    const bool lease = leases(*base);
    const bool saves = (call->flags & TN_CALL_SAVE) != 0 && !watches();
    if ((call->flags & TN_CALL_SAVE) && watches()) check(call->saver->keep_input(call->saver->self, kX));
    if (saves) {
      const int64_t shape[2] = {x.rows, f.r};
      tn_tensor* saved = nullptr;
      check(call->saver->alloc(call->saver->self, kColumns, 2, shape, &x.dtype, &saved));
      picked = Matrix::of(*saved);
    }
    if (saves || (y && !lease)) gather_columns(s.exec(), x, index, picked);
    if (!y) return;
    const MatrixView input(x);
    if (lease) {
      with_columns(s.exec(), f, f.scale * call->scale, *base, static_cast<float*>(delta.data), index, keep,
                   [&] { check(base->forward(base->self, &input.tensor, 1, 0, y)); });
    } else {
      check(base->forward(base->self, &input.tensor, 1, 0, y));
      s.product(f.scale * call->scale, picked, delta.transposed(), 1, Matrix::of(*y));
    }
  }

  void run_backward(Scratch& s, uint32_t site, const Site& f, const tn_adapter_call* call, const tn_base_linear* base,
                    const Matrix& dy, double beta, tn_tensor* dx) const {
    const Matrix thin = s.activations(dy.rows, f.r);
    float* keep = s.take<float>(f.m * f.r);
    const Matrix delta = call ? Matrix::of(*call->params[kDelta]->value) : Matrix::dense(nullptr, f.m, f.r);
    const double scale = f.scale * (call ? call->scale : 1);
    if (!call || call->params[kDelta]->grad) {
      const Matrix kept = call ? Matrix::of(*saved(*call, watches() ? kX : kColumns)->tensor) : watches() ? Matrix::dense(nullptr, dy.dtype, dy.rows, f.n) : thin;
      const bool looking = watches() && (!call || !chosen_.contains(site));
      if (looking) watch(s, f, call, dy, kept);
      if (!call || !looking) {
        if (call && watches()) gather_columns(s.exec(), kept, contiguous<int32_t>(call->params[kIndex]->value, "paca_indices"), thin);
        s.product(scale, dy.transposed(), watches() ? thin : kept, 1, call ? Matrix::of(*call->params[kDelta]->grad) : delta);
      }
    }
    if (call && !dx) return;
    if (call && leases(*base)) {
      const MatrixView gradient(dy);
      with_columns(s.exec(), f, scale, *base, static_cast<float*>(delta.data),
                   contiguous<int32_t>(call->params[kIndex]->value, "paca_indices"), keep,
                   [&] { check(base->backward(base->self, &gradient.tensor, 1, beta, dx)); });
      return;
    }
    if (call) {
      const MatrixView gradient(dy);
      check(base->backward(base->self, &gradient.tensor, 1, beta, dx));
    }
    s.product(scale, dy, delta, 0, thin);
    if (call)
      add_columns(s.exec(), thin, contiguous<int32_t>(call->params[kIndex]->value, "paca_indices"), Matrix::of(*dx));
  }

  const Site& at(uint32_t site) const { return sites_.at(site); }

 private:
  Settings settings_;
  Targets targets_;
  Sites<Site> sites_{"paca"};
  std::set<uint32_t> watched_, chosen_;  // sites whose sums were looked at in this run, and whose columns were chosen by them at any time
};

constexpr tn_adapter_api kApi = adapter_api<Paca>();
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "paca", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::paca

TENON_PLUGIN(tenon::paca::kPlugin)
