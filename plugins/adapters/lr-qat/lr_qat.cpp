// LR-QAT: Low-Rank Quantization-Aware Training (Bondarenko et al. 2024).
//
//   Z = Φ0 + (α/r) A B,  W_int = clamp(round(Z)),  Ŵ = s ⊙ W_int,  Y = X Ŵᵀ;  Φ0 = W/s0 in 8-bit fixed point, frozen
//   dŴ = dYᵀ X,  ds = Σ_group dŴ ⊙ W_int,  dZ = s ⊙ dŴ where the clamp is open,  dA = (α/r) dZ Bᵀ,  dB = (α/r) Aᵀ dZ,
//   dX = dY Ŵ
//
// The names of A [m, r] and B [r, n] are the paper's, the reverse of LoRA's. Ŵ and dŴ are made in panels of rows and
// never whole. The adapter holds the weight: one byte per element.
#include <algorithm>
#include <vector>

#include "grid.h"
#include "sdk/adapter.h"
#include "sdk/adapter/base.h"
#include "sdk/adapter/call.h"
#include "sdk/adapter/declare.h"
#include "sdk/adapter/initial.h"
#include "sdk/adapter/scratch.h"
#include "sdk/adapter/settings.h"
#include "sdk/adapter/sites.h"
#include "sdk/adapter/targets.h"

namespace tenon::lr_qat {
namespace {

using namespace tenon::sdk;

enum Slot : uint32_t { kX = 0 };
enum Place : size_t { kA, kB, kScale, kPhi, kPlaces };
constexpr int64_t kPanelBytes = 4 << 20;

constexpr tn_hyper_info kBits = integer("bits", "4", 2, 7, "bits", "of each weight in the end");
constexpr tn_hyper_info kGroup =
    integer("group_size", "0", 0, 1 << 24, "elements", "elements of a row that share a scale; 0: the whole row");
constexpr tn_hyper_info kR = integer("r", "32", 1, 65536, nullptr, "rank of the two factors");
constexpr tn_hyper_info kAlpha = real("lora_alpha", "1", 0, kInfinity, TN_RANGE_OPEN_MIN | TN_RANGE_OPEN_MAX, nullptr,
                                      "the product is scaled by lora_alpha / r");
constexpr tn_hyper_info kScaleLr = real("scale_lr", "0.01", 0, kInfinity, TN_RANGE_OPEN_MAX, nullptr,
                                        "learning rate of the scales, as a share of the factors'");
constexpr tn_hyper_info kTargets = target_modules("all-linear");
constexpr const tn_hyper_info* kHypers[] = {&kBits, &kGroup, &kR, &kAlpha, &kScaleLr, &kTargets, &kExcludeModules};

struct Site {
  int64_t m, n, r;
  double scale;
  Grid grid;
  int64_t panel() const { return std::clamp<int64_t>(kPanelBytes / (n * 4), 1, m); }
};

class LrQat {
 public:
  static constexpr uint32_t kCaps = TN_ADAPTER_MERGES | TN_ADAPTER_SURROGATE_GRADIENT;

  LrQat(const tn_host* host, const Hypers& hypers, const char* config_json)
      : settings_(host, hypers, kHypers, config_json, "LR_QAT"), targets_(settings_.selection) {}

  void supports(const tn_query& q) {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16)) fail(TN_E_UNSUPPORTED, "lr-qat computes in f32 or bf16");
  }

  void bind(const tn_site* const* sites, uint64_t n, const tn_adapter_sink& sink) {
    if (!TN_HAS(&sink, tn_adapter_sink, own) || !sink.own)
      fail(TN_E_UNSUPPORTED, "lr-qat holds the weights itself, which this host does not offer");
    targets_.refuse_lookups("lr-qat", sites, n);
    for (uint64_t i = 0; i < n; ++i) {
      const tn_site& s = *sites[i];
      if (s.place != TN_PLACE_LINEAR || s.role == TN_ROLE_HEAD || !targets_.takes(s)) continue;
      if (s.flags & (TN_LINEAR_ADAPTED | TN_LINEAR_OWNED))
        fail(TN_E_CONFLICT,
             std::string("lr-qat holds the weight of ") + s.path + ", so it must be the first adapter there");
      const int64_t r = targets_.rank_of(s.path, settings_.integer("r")), asked = settings_.integer("group_size");
      const Grid grid{static_cast<int32_t>(settings_.integer("bits")), s.n, asked == 0 ? s.n : std::min(asked, s.n)};
      const auto id = static_cast<uint32_t>(sites_.size() * kPlaces);
      sites_.add(s.id, {s.m, s.n, r, targets_.alpha_of(s.path, settings_.real("lora_alpha")) / static_cast<double>(r), grid});
      check(sink.site(sink.self, s.id, TN_RETAIN_INPUT));
      check(sink.own(sink.self, s.id, 1));
      const auto at = static_cast<int32_t>(s.id);
      declare_param(sink, id + kA, at, kTrained, {s.m, r}, peft_key(s, "lora_A.weight"));
      declare_param(sink, id + kB, at, kTrained, {r, s.n}, peft_key(s, "lora_B.weight"));
      declare_param(sink, id + kScale, at, kTrained, {s.m, grid.groups()}, peft_key(s, "scale"),
                    settings_.real("scale_lr"), 0);
      declare_param(sink, id + kPhi, at, TN_ADAPTER_PARAM_SAVED | TN_ADAPTER_PARAM_INT8, {s.m, s.n},
                    peft_key(s, "phi"));
    }
    if (sites_.empty()) targets_.none_taken(sites, n);
  }

  void estimate(const tn_device_api* api, tn_device* device, uint32_t site, int64_t rows, tn_dtype compute,
                bool backward, tn_estimate& out) {
    const Site& f = at(site);
    Scratch s(api, device, compute);
    const Matrix x = Matrix::dense(nullptr, compute, rows, f.n), y = Matrix::dense(nullptr, compute, rows, f.m);
    if (backward) {
      run_backward(s, f, nullptr, x, y, 0, &x);
    } else {
      run_forward(s, f, nullptr, x, y);
      round(s, f, nullptr, 1, 0, s.matrix(kF32, std::min(rows, f.m), f.n),
            Matrix::dense(nullptr, std::min(rows, f.m), f.n));  // a merge
    }
    out.state_bytes =
        static_cast<uint64_t>(f.r * (f.m + f.n) + f.m * f.grid.groups()) * 4 + static_cast<uint64_t>(f.m * f.n);
    out.workspace_bytes = aligned(s.peak());
    out.flops = s.flops();
    out.bytes_moved = static_cast<double>(f.m * f.n);
  }

  void init_param(const tn_exec* exec, uint32_t param, const tn_base_linear* base, const tn_rng& rng,
                  tn_tensor& value) {
    const Site f = sites_.taken(param / kPlaces);
    const Grid grid = f.grid;
    switch (param % kPlaces) {
      case kA:
        return fill_constant(exec, 0, contiguous<float>(&value, "lora_A"), count(value));
      case kB:
        return fill_kaiming(exec, rng, f.n, contiguous<float>(&value, "lora_B"), count(value));
      case kScale: {
        float* out = contiguous<float>(&value, "the scales");
        return for_each_rows(exec, *base, [&](int64_t begin, const Matrix& w) {
          const float* from = static_cast<const float*>(w.data);
          const int64_t groups = grid.groups();
          for_each_block(
              exec, w.rows * groups,
              [=] TN_KERNEL(const Block& b) {
                const int64_t row = b.index / groups, first = b.index % groups * grid.group;
                float* const to = out + begin * groups + b.index;
                b.each(1, [=](int64_t) {
                  *to = grid.best_scale(from + row * grid.n + first, grid.n - first < grid.group ? grid.n - first : grid.group);
                });
              },
              80 * grid.group);
        });
      }
      default: {
        int8_t* out = contiguous<int8_t>(&value, "phi");
        return for_each_rows(exec, *base, [&](int64_t begin, const Matrix& w) {
          const float* from = static_cast<const float*>(w.data);
          const int64_t groups = grid.groups();
          for_each_block(
              exec, w.rows * groups,
              [=] TN_KERNEL(const Block& b) {
                const int64_t row = b.index / groups, first = b.index % groups * grid.group;
                const int64_t n = grid.n - first < grid.group ? grid.n - first : grid.group;
                const float* x = from + row * grid.n + first;
                int8_t* to = out + (begin + row) * grid.n + first;
                b.each(1, [=](int64_t) {
                  const float inverse = 1 / grid.best_scale(x, n);
                  for (int64_t j = 0; j < n; ++j) to[j] = grid.fixed(x[j] * inverse);
                });
              },
              80 * grid.group);
        });
      }
    }
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

  // w = s ⊙ W_int: the integer model's weight, with nothing left beside it.
  void merge_rows(const tn_exec* exec, uint32_t site, const tn_param_view* const* params, uint64_t, int64_t begin,
                  int64_t end, tn_tensor& w) {
    const Site& f = at(site);
    Scratch s(*exec, kF32);
    const Matrix z = s.matrix(kF32, end - begin, f.n);
    round(s, f, params, 1, begin, z, Matrix::of(w));
  }

  void write_config(const tn_sink& sink) { settings_.write(sink); }

  // What serves the functions above, public for nvcc, which takes kernels nowhere else.

  static Matrix factor(const tn_param_view* const* params, Place place, int64_t rows, int64_t columns) {
    return params ? Matrix::of(*params[place]->value) : Matrix::dense(nullptr, rows, columns);
  }

  // Rows [begin, begin + z.rows) of Z and of Ŵ.
  void round(Scratch& s, const Site& f, const tn_param_view* const* params, double strength, int64_t begin,
             const Matrix& z, const Matrix& w) const {
    s.product(f.scale * strength, factor(params, kA, f.m, f.r).row_block(begin, z.rows), factor(params, kB, f.r, f.n),
              0, z);
    if (!params) return;
    const int8_t* phi = contiguous<int8_t>(params[kPhi]->value, "phi") + begin * f.n;
    const Grid grid = f.grid;
    const int64_t groups = grid.groups();
    const float* scales = contiguous<float>(params[kScale]->value, "the scales") + begin * groups;
    float *at_z = static_cast<float*>(z.data), *at_w = static_cast<float*>(w.data);
    const float fraction = grid.fraction();
    for_each(s.exec(), z.rows * f.n, [=] TN_KERNEL(int64_t i) {
      at_z[i] += fraction * static_cast<float>(phi[i]);
      at_w[i] = scales[i / grid.n * groups + i % grid.n / grid.group] * grid.code(at_z[i]);
    });
  }

  void run_forward(Scratch& s, const Site& f, const tn_adapter_call* call, const Matrix& x, const Matrix& y) const {
    const Matrix zs = s.matrix(kF32, f.panel(), f.n), ws = s.matrix(kF32, f.panel(), f.n);
    for (int64_t begin = 0; begin < f.m; begin += f.panel()) {
      const int64_t rows = std::min(f.panel(), f.m - begin);
      const Matrix w = ws.row_block(0, rows);
      round(s, f, call ? call->params : nullptr, call ? call->scale : 1, begin, zs.row_block(0, rows), w);
      s.product(1, x, w.transposed(), 0, y.column_block(begin, rows));
      if (!call) begin = skip(f, begin);
    }
  }

  void run_backward(Scratch& s, const Site& f, const tn_adapter_call* call, const Matrix& x, const Matrix& dy,
                    double beta, const Matrix* dx) const {
    const Matrix zs = s.matrix(kF32, f.panel(), f.n), ws = s.matrix(kF32, f.panel(), f.n);
    const tn_param_view* const* params = call ? call->params : nullptr;
    const double scale = f.scale * (call ? call->scale : 1);
    const bool learns = !call || call->params[kA]->grad;
    for (int64_t begin = 0; begin < f.m; begin += f.panel()) {
      const int64_t rows = std::min(f.panel(), f.m - begin);
      const Matrix z = zs.row_block(0, rows), w = ws.row_block(0, rows), part = dy.column_block(begin, rows);
      round(s, f, params, call ? call->scale : 1, begin, z, w);
      if (dx) s.product(1, part, w, begin == 0 ? beta : 1.0, *dx);
      if (learns) {
        s.product(1, part.transposed(), x, 0, w);  // dŴ, over Ŵ
        if (call) through_rounding(s, f, *call, begin, z, w);
        const Matrix a = factor(params, kA, f.m, f.r), b = factor(params, kB, f.r, f.n);
        s.product(scale, w, b.transposed(), 1, (call ? Matrix::of(*call->params[kA]->grad) : a).row_block(begin, rows));
        s.product(scale, a.row_block(begin, rows).transposed(), w, 1, call ? Matrix::of(*call->params[kB]->grad) : b);
      }
      if (!call) begin = skip(f, begin);
    }
  }

  // ds += Σ_group dŴ ⊙ W_int; dŴ becomes dZ.
  void through_rounding(Scratch& s, const Site& f, const tn_adapter_call& call, int64_t begin, const Matrix& z,
                        const Matrix& g) const {
    const Grid grid = f.grid;
    const int64_t groups = grid.groups();
    const float* scales = contiguous<float>(call.params[kScale]->value, "the scales") + begin * groups;
    float* ds = call.params[kScale]->grad
                    ? contiguous<float>(call.params[kScale]->grad, "the scales' gradient") + begin * groups
                    : nullptr;
    const float* at_z = static_cast<const float*>(z.data);
    float* at_g = static_cast<float*>(g.data);
    for_each_block(
        s.exec(), z.rows * groups,
        [=] TN_KERNEL(const Block& b) {
          const int64_t first = b.index / groups * grid.n + b.index % groups * grid.group,
                        left = grid.n - b.index % groups * grid.group;
          const int64_t n = left < grid.group ? left : grid.group;
          const float* zi = at_z + first;
          float* gi = at_g + first;
          const double sum = b.sum(n, [=](int64_t j) { return static_cast<double>(gi[j]) * grid.code(zi[j]); });
          const float scale = scales[b.index];
          b.each(n, [=](int64_t j) { gi[j] *= scale * grid.passes(zi[j]); });
          float* const to = ds ? ds + b.index : nullptr;
          b.each(to ? 1 : 0, [=](int64_t) { *to += static_cast<float>(sum); });
        },
        grid.group);
  }

  // Measuring goes from the first panel to the last: they have every shape.
  static int64_t skip(const Site& f, int64_t begin) {
    return std::max(begin, (f.m - 1) / f.panel() * f.panel() - f.panel());
  }

  const Site& at(uint32_t site) const { return sites_.at(site); }

 private:
  Settings settings_;
  Targets targets_;
  Sites<Site> sites_{"lr-qat"};
};

constexpr tn_adapter_api kApi = adapter_api<LrQat>();
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "lr-qat", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::lr_qat

TENON_PLUGIN(tenon::lr_qat::kPlugin)
