// SLTrain: sparse plus low-rank pretraining (Han et al. 2024).
//
//   W = s B A + S, S a matrix of random support whose values v train
//   Y = X Wᵀ,  dX = dY W,  G = dYᵀ X,  dB = s G Aᵀ,  dA = s Bᵀ G,  dv = G at the support
//
// Neither W nor G is ever whole: both are made in panels of rows, which a product consumes at once. The support has the
// same number of entries in each row but for a remainder, so that a panel's entries are a range: row i owns entries [⌊i
// k/m⌋, ⌊(i+1) k/m⌋) of k.
#include <algorithm>
#include <cmath>
#include <vector>

#include "sdk/adapter.h"
#include "sdk/adapter/call.h"
#include "sdk/adapter/declare.h"
#include "sdk/adapter/initial.h"
#include "sdk/adapter/scratch.h"
#include "sdk/adapter/settings.h"
#include "sdk/adapter/sites.h"
#include "sdk/adapter/targets.h"

namespace tenon::sltrain {
namespace {

using namespace tenon::sdk;

enum Slot : uint32_t { kX = 0 };
enum Place : size_t { kA, kB, kValues, kIndex, kPlaces };
constexpr int64_t kPanelBytes = 4 << 20;  // of W or G: stays in the cache between its making and its use

constexpr tn_hyper_info kR = integer("r", "128", 1, 65536, nullptr, "rank of the low-rank part");
constexpr tn_hyper_info kAlpha = real("lora_alpha", "32", 0, kInfinity, TN_RANGE_OPEN_MIN | TN_RANGE_OPEN_MAX, nullptr,
                                      "the low-rank part is scaled by lora_alpha / r");
constexpr tn_hyper_info kRatio =
    real("sp_ratio", "0.03", 0, 1, 0, nullptr, "share of the entries that are in the sparse part");
constexpr tn_hyper_info kTrainRest =
    flag("train_rest", "true", "embedding, norms, head and every other dense parameter train too");
constexpr tn_hyper_info kTargets = target_modules("all-linear");
constexpr const tn_hyper_info* kHypers[] = {&kR, &kAlpha, &kRatio, &kTrainRest, &kTargets, &kExcludeModules};

struct Site {
  int64_t m, n, r, k;  // k: entries of the support
  double scale;
  // row · k / m, rounded down, in 64 bits.
  TN_FN int64_t begin(int64_t row) const { return row * (k / m) + row * (k % m) / m; }
  int64_t panel() const { return std::clamp<int64_t>(kPanelBytes / (n * 4), 1, m); }
};

// The columns of row i: `count` distinct ones of n, ascending, by counting how many are left to choose (Knuth's
// selection sampling).
TN_FN void choose_row(const tn_rng& rng, int64_t row, int64_t n, int64_t count, int32_t* columns) {
  int64_t chosen = 0;
  for (int64_t j = 0; j < n && chosen < count; ++j)
    if (static_cast<double>(uniform(rng, static_cast<uint64_t>(row * n + j))) * static_cast<double>(n - j) <
        static_cast<double>(count - chosen))
      columns[chosen++] = static_cast<int32_t>(j);
}

class SlTrain {
 public:
  static constexpr uint32_t kCaps = TN_ADAPTER_MERGES;

  SlTrain(const tn_host* host, const Hypers& hypers, const char* config_json)
      : settings_(host, hypers, kHypers, config_json, "SLTRAIN"), targets_(settings_.selection) {}

  void supports(const tn_query& q) {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16)) fail(TN_E_UNSUPPORTED, "sltrain computes in f32 or bf16");
  }

  void bind(const tn_site* const* sites, uint64_t n, const tn_adapter_sink& sink) {
    if (!TN_HAS(&sink, tn_adapter_sink, train) || !sink.own || !sink.train)
      fail(TN_E_UNSUPPORTED, "sltrain holds the weights itself, which this host does not offer");
    targets_.refuse_lookups("sltrain", sites, n);
    for (uint64_t i = 0; i < n; ++i) {
      const tn_site& s = *sites[i];
      if (s.place != TN_PLACE_LINEAR || s.role == TN_ROLE_HEAD || !targets_.takes(s)) continue;
      if (s.flags & (TN_LINEAR_ADAPTED | TN_LINEAR_OWNED))
        fail(TN_E_CONFLICT,
             std::string("sltrain holds the weight of ") + s.path + ", so it must be the first adapter there");
      const int64_t r = targets_.rank_of(s.path, settings_.integer("r"));
      const int64_t k = static_cast<int64_t>(settings_.real("sp_ratio") * static_cast<double>(s.m * s.n));
      const auto id = static_cast<uint32_t>(sites_.size() * kPlaces);
      sites_.add(s.id, {s.m, s.n, r, k, targets_.alpha_of(s.path, settings_.real("lora_alpha")) / static_cast<double>(r)});
      check(sink.site(sink.self, s.id, TN_RETAIN_INPUT));
      check(sink.own(sink.self, s.id, 0));
      const auto at = static_cast<int32_t>(s.id);
      declare_param(sink, id + kA, at, kTrained, {r, s.n}, peft_key(s, "lora_A.weight"));
      declare_param(sink, id + kB, at, kTrained, {s.m, r}, peft_key(s, "lora_B.weight"));
      declare_param(sink, id + kValues, at, kTrained, {k, 0}, peft_key(s, "sparse_value"));
      declare_param(sink, id + kIndex, at, TN_ADAPTER_PARAM_SAVED | TN_ADAPTER_PARAM_INT32, {k, 0},
                    peft_key(s, "sparse_column"));
    }
    if (sites_.empty()) targets_.none_taken(sites, n);
    if (settings_.flag("train_rest"))
      for (uint32_t role = TN_ROLE_EMBEDDING; role <= TN_ROLE_DOWN; ++role) check(sink.train(sink.self, role));
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t site, int64_t rows, tn_dtype compute,
                bool backward, tn_estimate& out) {
    const Site& f = at(site);
    Scratch s(api, device, compute);
    const Matrix x = Matrix::dense(nullptr, compute, rows, f.n), y = Matrix::dense(nullptr, compute, rows, f.m);
    if (backward)
      run_backward(s, f, nullptr, x, y, 0, &x);
    else
      run_forward(s, f, nullptr, x, y);
    out.state_bytes = static_cast<uint64_t>(f.r * (f.m + f.n) + 2 * f.k) * 4;
    out.workspace_bytes = aligned(s.peak());
    out.flops = s.flops();
    out.bytes_moved = static_cast<double>(out.state_bytes);
  }

  void init_param(const tn_exec* exec, uint32_t param, const tn_base_linear*, const tn_rng& rng, tn_tensor& value) {
    const Site f = sites_.taken(param / kPlaces);
    if (param % kPlaces == kIndex) {
      int32_t* columns = contiguous<int32_t>(&value, "sparse_column");
      return for_each_block(
          exec, f.m,
          [=] TN_KERNEL(const Block& b) {
            const int64_t row = b.index;
            b.each(1, [=](int64_t) { choose_row(rng, row, f.n, f.begin(row + 1) - f.begin(row), columns + f.begin(row)); });
          },
          f.n * 16);
    }
    float* w = contiguous<float>(&value, "a parameter of sltrain");
    if (param % kPlaces == kB) return fill_constant(exec, 0, w, count(value));
    fill_kaiming(exec, rng, f.n, w, count(value));
  }

  void forward(uint32_t site, const tn_adapter_call& call, const tn_base_linear&, const tn_tensor& x, tn_tensor* y) {
    if (x.shape[0] == 0) return;
    Scratch s(*call.exec, x.dtype);
    if (call.flags & TN_CALL_SAVE) check(call.saver->keep_input(call.saver->self, kX));
    if (y) run_forward(s, at(site), &call, Matrix::of(x), Matrix::of(*y));
  }

  void backward(uint32_t site, const tn_adapter_call& call, const tn_base_linear&, const tn_tensor& dy, double beta,
                tn_tensor* dx) {
    if (dy.shape[0] == 0) return;
    Scratch s(*call.exec, dy.dtype);
    const Matrix to = dx ? Matrix::of(*dx) : Matrix();
    run_backward(s, at(site), &call, Matrix::of(*saved(call, kX)->tensor), Matrix::of(dy), beta, dx ? &to : nullptr);
  }

  void merge_rows(const tn_exec* exec, uint32_t site, const tn_param_view* const* params, uint64_t, int64_t begin,
                  int64_t, tn_tensor& w) {
    Scratch s(*exec, kF32);
    const Matrix rows = Matrix::of(w);
    build(s, at(site), params, 1, begin, rows, 1);
  }

  void write_config(const tn_sink& sink) { settings_.write(sink); }

  // What serves the functions above, public for nvcc, which takes kernels nowhere else.

  static Matrix factor(const tn_param_view* const* params, Place place, int64_t rows, int64_t columns) {
    return params ? Matrix::of(*params[place]->value) : Matrix::dense(nullptr, rows, columns);
  }

  // w = beta · w + rows [begin, begin + w.rows) of W, in f32; params null: measures.
  void build(Scratch& s, const Site& f, const tn_param_view* const* params, double strength, int64_t begin,
             const Matrix& w, double beta) const {
    s.product(f.scale * strength, factor(params, kB, f.m, f.r).row_block(begin, w.rows), factor(params, kA, f.r, f.n),
              beta, w);
    if (!params) return;
    const float* values = contiguous<float>(params[kValues]->value, "sparse_value");
    const int32_t* columns = contiguous<int32_t>(params[kIndex]->value, "sparse_column");
    float* to = static_cast<float*>(w.data);
    const int64_t stride = w.row_stride;
    for_each_block(
        s.exec(), w.rows,
        [=] TN_KERNEL(const Block& b) {
          const int64_t first = f.begin(begin + b.index);
          float* const row = to + b.index * stride;
          b.each(f.begin(begin + b.index + 1) - first, [=](int64_t e) { row[columns[first + e]] += values[first + e]; });
        },
        f.k / f.m + 1);
  }

  void run_forward(Scratch& s, const Site& f, const tn_adapter_call* call, const Matrix& x, const Matrix& y) const {
    const Matrix panel = s.matrix(kF32, f.panel(), f.n);
    for (int64_t begin = 0; begin < f.m; begin += f.panel()) {
      const Matrix w = panel.row_block(0, std::min(f.panel(), f.m - begin));
      build(s, f, call ? call->params : nullptr, call ? call->scale : 1, begin, w, 0);
      s.product(1, x, w.transposed(), 0, y.column_block(begin, w.rows));
      if (!call) begin = skip(f, begin);
    }
  }

  void run_backward(Scratch& s, const Site& f, const tn_adapter_call* call, const Matrix& x, const Matrix& dy,
                    double beta, const Matrix* dx) const {
    const Matrix panel = s.matrix(kF32, f.panel(), f.n);
    const bool learns = !call || call->params[kValues]->grad;
    const double scale = f.scale * (call ? call->scale : 1);
    for (int64_t begin = 0; begin < f.m; begin += f.panel()) {
      const Matrix w = panel.row_block(0, std::min(f.panel(), f.m - begin)), part = dy.column_block(begin, w.rows);
      if (dx) {
        build(s, f, call ? call->params : nullptr, call ? call->scale : 1, begin, w, 0);
        s.product(1, part, w, begin == 0 ? beta : 1.0, *dx);
      }
      if (learns) {  // G over the same memory
        s.product(1, part.transposed(), x, 0, w);
        const Matrix a = factor(call ? call->params : nullptr, kA, f.r, f.n),
                     b = factor(call ? call->params : nullptr, kB, f.m, f.r);
        s.product(scale, w, a.transposed(), 1,
                  (call ? Matrix::of(*call->params[kB]->grad) : b).row_block(begin, w.rows));
        s.product(scale, b.row_block(begin, w.rows).transposed(), w, 1, call ? Matrix::of(*call->params[kA]->grad) : a);
        if (call) gather(s, f, *call, begin, w);
      }
      if (!call) begin = skip(f, begin);
    }
  }

  // Measuring goes from the first panel to the last: they have every shape.
  static int64_t skip(const Site& f, int64_t begin) {
    return std::max(begin, (f.m - 1) / f.panel() * f.panel() - f.panel());
  }

  // dv += G at the support.
  void gather(Scratch& s, const Site& f, const tn_adapter_call& call, int64_t begin, const Matrix& g) const {
    float* dv = contiguous<float>(call.params[kValues]->grad, "the gradient of sparse_value");
    const int32_t* columns = contiguous<int32_t>(call.params[kIndex]->value, "sparse_column");
    const float* from = static_cast<float*>(g.data);
    const int64_t n = f.n;
    for_each_block(
        s.exec(), g.rows,
        [=] TN_KERNEL(const Block& b) {
          const int64_t first = f.begin(begin + b.index);
          const float* const row = from + b.index * n;
          b.each(f.begin(begin + b.index + 1) - first, [=](int64_t e) { dv[first + e] += row[columns[first + e]]; });
        },
        f.k / f.m + 1);
  }

  const Site& at(uint32_t site) const { return sites_.at(site); }

 private:
  Settings settings_;
  Targets targets_;
  Sites<Site> sites_{"sltrain"};
};

constexpr tn_adapter_api kApi = adapter_api<SlTrain>();
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "sltrain", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::sltrain

TENON_PLUGIN(tenon::sltrain::kPlugin)
