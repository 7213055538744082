// WTA-CRS: Winner-Take-All Column-Row Sampling (Liu et al. 2023), a decorator of sites (org.tenon.sampler/1).
//
//   dW = Σ_i dY_i ⊗ X_i over T rows  ≈  Σ_winners dY_i ⊗ X_i + Σ_draws w_j dY_j ⊗ X_j,  E = dW,  p_i ∝ ‖X_i‖
#include <cmath>
#include <set>

#include "choose.h"
#include "sdk/adapter.h"
#include "sdk/adapter/rows.h"
#include "sdk/adapter/typed.h"
#include "sdk/adapter/settings.h"
#include "sdk/adapter/targets.h"
#include "sdk/workspace.h"
#include "tenon/sampler.h"

namespace tenon::wta_crs {
namespace {

using namespace tenon::sdk;

constexpr tn_hyper_info kShare =
    real("sample_ratio", "0.3", 0, 1, TN_RANGE_OPEN_MIN, nullptr, "share of the rows that are kept");
constexpr tn_hyper_info kLeast = integer("min_rows", "10", 1, 1 << 20, "rows", "never fewer than these");
constexpr tn_hyper_info kAdaptive =
    flag("deterministic", "true", "the heaviest rows are kept for certain; false: plain column-row sampling");
constexpr tn_hyper_info kTune =
    flag("tune_weights", "false", "the model's own dense weights train: full tuning with sampled gradients");
constexpr tn_hyper_info kTargets = target_modules("q_proj+k_proj+v_proj");
constexpr const tn_hyper_info* kHypers[] = {&kShare, &kLeast, &kAdaptive, &kTune, &kTargets, &kExcludeModules};

class WtaCrs {
 public:
  static constexpr uint32_t kCaps = TN_ADAPTER_MERGES;

  WtaCrs(const tn_host* host, const Hypers& hypers, const char* config_json)
      : settings_(host, hypers, kHypers, config_json, "WTA_CRS"), targets_(settings_.selection) {}

  void supports(const tn_query& q) {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16)) fail(TN_E_UNSUPPORTED, "wta-crs computes in f32 or bf16");
  }
  void bind(const tn_site* const* sites, uint64_t n, const tn_adapter_sink& sink) {
    targets_.refuse_lookups("wta-crs", sites, n);
    for (uint64_t i = 0; i < n; ++i) {
      const tn_site& s = *sites[i];
      if (s.place != TN_PLACE_LINEAR || s.role == TN_ROLE_HEAD || !targets_.takes(s)) continue;
      check(sink.site(sink.self, s.id, TN_RETAIN_NOTHING));
      taken_.insert(s.id);
    }
    if (taken_.empty()) targets_.none_taken(sites, n);
    if (!settings_.flag("tune_weights")) return;
    if (!TN_HAS(&sink, tn_adapter_sink, train) || !sink.train)
      fail(TN_E_UNSUPPORTED, "this host trains no weights beside an adapter");
    for (uint32_t role = TN_ROLE_EMBEDDING; role <= TN_ROLE_DOWN; ++role) check(sink.train(sink.self, role));
  }
  void estimate(const tn_device_api*, tn_device*, uint32_t, int64_t, tn_dtype, bool, tn_estimate& out) {
    out.workspace_bytes = 0;
  }
  void init_param(const tn_exec*, uint32_t, const tn_base_linear*, const tn_rng&, tn_tensor&) {
    fail(TN_E_ARGUMENT, "wta-crs has no parameters");
  }
  void forward(uint32_t, const tn_adapter_call&, const tn_base_linear& base, const tn_tensor& x, tn_tensor* y) {
    if (y) check(base.forward(base.self, &x, 1, 0, y));
  }
  void backward(uint32_t, const tn_adapter_call&, const tn_base_linear& base, const tn_tensor& dy, double beta,
                tn_tensor* dx) {
    if (dx) check(base.backward(base.self, &dy, 1, beta, dx));
  }
  void merge_rows(const tn_exec*, uint32_t, const tn_param_view* const*, uint64_t, int64_t, int64_t, tn_tensor&) {}
  void write_config(const tn_sink& sink) { settings_.write(sink); }

  int64_t kept(int64_t rows) const {
    const auto share = static_cast<int64_t>(settings_.real("sample_ratio") * static_cast<double>(rows));
    return std::min(rows, std::max(share, settings_.integer("min_rows")));
  }
  static uint64_t workspace(int64_t rows) {
    Workspace w;
    (void)w.take<float>(rows), (void)w.take<float>(rows);
    return w.peak();
  }
  void sample(const tn_adapter_call& call, const tn_tensor& x, tn_tensor& index, tn_tensor& sampled) const {
    const tn_exec& exec = *call.exec;
    const int64_t rows = x.shape[0], n = x.shape[1], k = index.shape[0];
    Workspace memory(exec);
    float *norms = memory.take<float>(rows), *weights = memory.take<float>(rows);
    const Matrix from = Matrix::of(x);
    TN_TYPED(T, from.dtype, "the input",
      const T* in = static_cast<const T*>(from.data);
      const int64_t stride = from.row_stride;
      for_each_block(
          &exec, rows,
          [=] TN_KERNEL(const Block& b) {
            const T* row = in + b.index * stride;
            norms[b.index] = static_cast<float>(std::sqrt(
                b.sum(n, [=](int64_t j) { return static_cast<double>(to_float(row[j])) * to_float(row[j]); })));
          },
          n););
    // A few thousand norms are sorted on the host.
    std::vector<float> host(static_cast<size_t>(rows));
    check(exec.api->copy(exec.device, exec.stream, host.data(), norms, host.size() * 4, TN_COPY_TO_HOST));
    check(exec.api->stream_wait(exec.device, exec.stream));
    const Choice c = choose(host, k, settings_.flag("deterministic"), call.rng);
    int32_t* to = contiguous<int32_t>(&index, "the index of the sample");
    check(exec.api->copy(exec.device, exec.stream, to, c.index.data(), c.index.size() * 4, TN_COPY_TO_DEVICE));
    check(exec.api->copy(exec.device, exec.stream, weights, c.weight.data(), c.weight.size() * 4, TN_COPY_TO_DEVICE));
    check(exec.api->stream_wait(exec.device, exec.stream));
    gather_rows(&exec, from, to, weights, Matrix::of(sampled));
  }

 private:
  Settings settings_;
  Targets targets_;
  std::set<uint32_t> taken_;
};

using Thunks = AdapterThunks<WtaCrs>;
constexpr tn_sampler kSampler{
    sizeof(tn_sampler), 0,
    [](tn_adapter* self, uint32_t, int64_t rows, int64_t, const tn_dtype*, int64_t* kept,
       tn_estimate* cost) -> int32_t {
      return guard(Thunks::of(self)->host, [&] {
        *kept = Thunks::of(self)->method.kept(rows), cost->workspace_bytes = WtaCrs::workspace(rows);
      });
    },
    [](tn_adapter* self, uint32_t, const tn_adapter_call* call, const tn_tensor* x, tn_tensor* index,
       tn_tensor* sampled) -> int32_t {
      return guard(Thunks::of(self)->host, [&] { Thunks::of(self)->method.sample(*call, *x, *index, *sampled); });
    }};
const void* extension(const char* id) {
  return std::string_view(id) == TN_EXT_SAMPLER ? &kSampler : nullptr;
}
constexpr tn_adapter_api kApi = adapter_api<WtaCrs>();
constexpr tn_plugin kPlugin = describe(TN_KIND_ADAPTER, "wta-crs", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::wta_crs

TENON_PLUGIN(tenon::wta_crs::kPlugin)
