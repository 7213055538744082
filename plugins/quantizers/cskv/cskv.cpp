// The cskv quantizer (Wang et al. 2024): a key-value cache of low-rank features behind a window of exact tokens.
#include "quantizers/cskv/factors.h"
#include "quantizers/cskv/features.h"
#include "sdk/kv.h"

namespace tenon::cskv {
namespace {

class Codec {
 public:
  static constexpr uint32_t kSites = TN_SITE_KV_CACHE;

  Codec(const tn_host*, const sdk::Hypers& h)
      : ratio_{h.real("ratio_k"), h.real("ratio_v")},
        bits_(std::stoi(std::string(h.text("bits")))),
        window_(h.integer("window")),
        fit_(h.text("fit") == "gram" ? Fit::kGram : h.text("fit") == "weighted" ? Fit::kWeighted : Fit::kPlain),
        alpha_(h.real("alpha")),
        samples_(h.integer("samples")),
        length_(h.integer("sample_length")) {}

  void supports(const tn_query& q) const { sdk::require_floats(q, "cskv"); }
  [[noreturn]] void plan(const tn_target& target, const tn_component_sink&) const { refuse(target); }
  [[noreturn]] void estimate(const tn_device_api*, tn_device*, const tn_target& target, uint32_t, int64_t, tn_estimate&) const { refuse(target); }
  [[noreturn]] void encode(const tn_exec*, const tn_target& target, const tn_tensor&, tn_tensor* const*, const tn_rng*) const { refuse(target); }
  [[noreturn]] void decode(const tn_exec*, const tn_target& target, tn_tensor* const*, int64_t, int64_t, tn_tensor&) const { refuse(target); }

  void plan_cache(tn_kv_plan& out) const {
    out.statistic = fit_ == Fit::kPlain ? 0u : uint32_t{TN_STATISTIC_GRAM};
    out.sequences = samples_, out.length = length_, out.window = window_, out.group = kGroup;
  }
  void factors(const tn_kv_layer& layer, const tn_component_sink& sink) const {
    for (int i = 0; i < 2; ++i) {
      sdk::declare(sink, i ? "v_a" : "k_a", sdk::kF32, rank(layer, i) * layer.hidden);
      sdk::declare(sink, i ? "v_b" : "k_b", sdk::kF32, rank(layer, i) * width(layer, i));
    }
  }
  void store(const tn_kv_layer& layer, int64_t groups, const tn_component_sink& sink) const {
    for (int i = 0; i < 2; ++i) {
      const int64_t n = groups * kGroup * rank(layer, i);
      if (bits_ == 32) sdk::declare(sink, i ? "v" : "k", sdk::kF32, n);
      if (bits_ == 16) sdk::declare(sink, i ? "v" : "k", sdk::kBF16, n);
      if (bits_ != 4) continue;
      sdk::declare(sink, i ? "v_codes" : "k_codes", sdk::kU8, groups * code_bytes(layer, i), 4);
      sdk::declare(sink, i ? "v_least" : "k_least", sdk::kBF16, groups * grids(layer, i));
      sdk::declare(sink, i ? "v_scale" : "k_scale", sdk::kBF16, groups * grids(layer, i));
    }
  }
  void estimate_cache(const tn_device_api* api, tn_device* device, const tn_kv_layer& layer, uint32_t op, int64_t groups, tn_estimate& out) const {
    const sdk::Products products(api, device);
    uint64_t bytes = 0;
    double flops = 0;
    for (int i = 0; i < 2; ++i) {
      const int64_t m = width(layer, i), n = layer.hidden, r = rank(layer, i), t = groups * kGroup;
      sdk::Workspace w;
      if (op == TN_KV_FIT) {
        const FitScratch s(w, m, n, r);
        bytes = std::max(bytes, s.products + fit_products(products, m, n, r));
        flops += static_cast<double>(m) * static_cast<double>(n) * 2 * static_cast<double>(n + m + r);
      } else {
        const Pass p(w, layer, t, r, m);
        bytes = std::max(bytes, p.products + (op == TN_KV_WRITE ? products.measure(f32(t, n), f32(r, n).transposed(), f32(t, r))
                                                               : products.measure(f32(t, r), f32(m, r).transposed(), f32(t, m))));
        flops += 2 * static_cast<double>(t * r) * static_cast<double>(op == TN_KV_WRITE ? n : m);
      }
    }
    sdk::set_estimate(out, flops, 0, 0, bytes);
  }
  void fit(const tn_exec* exec, const tn_kv_layer& layer, const tn_tensor& w_k, const tn_tensor& w_v, const tn_tensor* statistic, int64_t tokens,
           tn_tensor* const* factors) const {
    const float* gram = nullptr;
    if (fit_ != Fit::kPlain) {
      if (!statistic || tokens <= 0) sdk::fail(TN_E_ARGUMENT, "cskv: no calibration text was seen; give it some, or cskv:fit=plain");
      gram = sdk::contiguous<float>(statistic, "cskv: the statistic");
      if (sdk::count(*statistic) != layer.hidden * layer.hidden) sdk::fail(TN_E_ARGUMENT, "cskv: the statistic is a square of the input's width");
    }
    for (int i = 0; i < 2; ++i) {
      const int64_t m = width(layer, i), n = layer.hidden, r = rank(layer, i);
      const tn_tensor& w = i ? w_v : w_k;
      if (sdk::count(w) != m * n) sdk::fail(TN_E_ARGUMENT, "cskv: a projection's weight has another shape than its layer");
      sdk::Workspace space(*exec);
      const FitScratch s(space, m, n, r);
      const sdk::Products products(exec->api, exec->device, exec->stream, space.behind(s.products), space.bytes_behind(s.products));
      if (!fit_factors(exec, products, fit_, alpha_, sdk::contiguous<float>(&w, "cskv: a weight"), m, n, gram, tokens, r, s, part<float>(factors, 2 * i, r * n),
                       part<float>(factors, 2 * i + 1, r * m)))
        sdk::fail(TN_E_NUMERIC, "cskv: the projections of layer " + std::to_string(layer.block) + " or their inputs hold NaN or Inf");
    }
  }
  void write(const tn_exec* exec, const tn_kv_layer& layer, const tn_tensor& x, tn_tensor* const* factors, int64_t groups, int64_t first, int64_t n,
             tn_tensor* const* store) const {
    check_groups(groups, first, n);
    const int64_t t = n * kGroup;
    if (sdk::count(x) != t * layer.hidden || !sdk::is_contiguous(x)) sdk::fail(TN_E_ARGUMENT, "cskv: the inputs of whole groups are written, contiguous");
    for (int i = 0; i < 2; ++i) {
      const int64_t r = rank(layer, i);
      sdk::Workspace space(*exec);
      const Pass p(space, layer, t, r, width(layer, i));
      const sdk::Products products(exec->api, exec->device, exec->stream, space.behind(p.products), space.bytes_behind(p.products));
      const float* rows = nullptr;
      sdk::with_float_type(x.dtype, "cskv: the input of a projection", [&](auto type) {
        using T = decltype(type);
        if constexpr (std::is_same_v<T, float>) {
          rows = sdk::data<const float>(x);
        } else {
          sdk::convert_values(exec, sdk::data<const T>(x), p.wide, t * layer.hidden);
          rows = p.wide;
        }
      });
      products(1, sdk::Matrix::dense(const_cast<float*>(rows), t, layer.hidden),
               sdk::Matrix::dense(part<float>(factors, 2 * i, r * layer.hidden), r, layer.hidden).transposed(), 0, sdk::Matrix::dense(p.features, t, r));
      keep(exec, layer, i, p.features, groups, first, n, store);
    }
  }
  void read(const tn_exec* exec, const tn_kv_layer& layer, tn_tensor* const* factors, int64_t groups, int64_t first, int64_t n, tn_tensor* const* store,
            tn_tensor& k, tn_tensor& v) const {
    check_groups(groups, first, n);
    const int64_t t = n * kGroup;
    for (int i = 0; i < 2; ++i) {
      const int64_t r = rank(layer, i), m = width(layer, i);
      tn_tensor& out = i ? v : k;
      if (sdk::count(out) != t * m || !sdk::is_contiguous(out)) sdk::fail(TN_E_ARGUMENT, "cskv: whole groups are read, contiguous");
      sdk::Workspace space(*exec);
      const Pass p(space, layer, t, r, m);
      const sdk::Products products(exec->api, exec->device, exec->stream, space.behind(p.products), space.bytes_behind(p.products));
      recall(exec, layer, i, store, groups, first, n, p.features);
      sdk::with_float_type(out.dtype, "cskv: keys and values", [&](auto type) {
        using T = decltype(type);
        float* to = p.wide;
        if constexpr (std::is_same_v<T, float>) to = sdk::data<float>(out);
        products(1, sdk::Matrix::dense(p.features, t, r), sdk::Matrix::dense(part<float>(factors, 2 * i + 1, r * m), m, r).transposed(), 0,
                 sdk::Matrix::dense(to, t, m));
        if constexpr (!std::is_same_v<T, float>) sdk::convert_values(exec, to, sdk::data<T>(out), t * m);
      });
    }
  }

 private:
  [[noreturn]] static void refuse(const tn_target& t) {
    sdk::fail(TN_E_UNSUPPORTED, "cskv: " + sdk::name_of(t) + " cannot be coded by itself: the cache is made from the input of the projections, through org.tenon.kv/1");
  }
  static sdk::Matrix f32(int64_t rows, int64_t columns) { return sdk::Matrix::dense(static_cast<float*>(nullptr), rows, columns); }
  template <class T>
  static T* part(tn_tensor* const* all, int i, int64_t n) {
    return sdk::component<T>(all, i, "of a key-value cache", n);
  }
  // Scratch of one write or read: features [t, r], and rows in f32 where the layer's type is another.
  struct Pass {
    float *features, *wide;
    uint64_t products;
    Pass(sdk::Workspace& w, const tn_kv_layer& layer, int64_t t, int64_t r, int64_t m)
        : features(w.take<float>(t * r)), wide(w.take<float>(sdk::same(layer.dtype, sdk::kF32) ? 0 : t * std::max(layer.hidden, m))), products(w.mark()) {}
  };
  static int64_t width(const tn_kv_layer& l, int i) { return i ? l.v_width : l.k_width; }
  int64_t rank(const tn_kv_layer& l, int i) const {
    return std::clamp<int64_t>(static_cast<int64_t>(std::lround(ratio_[i] * static_cast<double>(width(l, i)))), 1, std::min(width(l, i), l.hidden));
  }
  // Keys: a grid for each channel over the group's tokens; values: one for each token.
  int64_t grids(const tn_kv_layer& l, int i) const { return i ? kGroup : rank(l, i); }
  int64_t code_bytes(const tn_kv_layer& l, int i) const { return i ? kGroup * ((rank(l, i) + 1) / 2) : rank(l, i) * kGroup / 2; }
  static void check_groups(int64_t groups, int64_t first, int64_t n) {
    if (first < 0 || n < 0 || first > groups - n)
      sdk::fail(TN_E_ARGUMENT, "cskv: groups " + std::to_string(first) + " to " + std::to_string(first + n) + " are not within a store of " + std::to_string(groups));
  }

  void keep(const tn_exec* exec, const tn_kv_layer& l, int i, float* c, int64_t groups, int64_t first, int64_t n, tn_tensor* const* store) const {
    const int64_t t = kGroup * rank(l, i);
    if (bits_ == 32) return sdk::copy_values(exec, c, part<float>(store, i, groups * t) + first * t, n * t);
    if (bits_ == 16) return sdk::convert_values(exec, c, part<sdk::bf16>(store, i, groups * t) + first * t, n * t);
    code_groups(exec, n, lines(l, i, c, groups, first, store));
  }
  void recall(const tn_exec* exec, const tn_kv_layer& l, int i, tn_tensor* const* store, int64_t groups, int64_t first, int64_t n, float* c) const {
    const int64_t t = kGroup * rank(l, i);
    if (bits_ == 32) return sdk::copy_values(exec, part<float>(store, i, groups * t) + first * t, c, n * t);
    if (bits_ == 16) return sdk::convert_values(exec, part<sdk::bf16>(store, i, groups * t) + first * t, c, n * t);
    decode_groups(exec, n, lines(l, i, c, groups, first, store));
  }
  // Features c, and where their codes of four bits lie from group `first` on.
  Lines lines(const tn_kv_layer& l, int i, float* c, int64_t groups, int64_t first, tn_tensor* const* store) const {
    return Lines(i, rank(l, i), c, part<uint8_t>(store, 3 * i, groups * code_bytes(l, i)) + first * code_bytes(l, i),
                 part<sdk::bf16>(store, 3 * i + 1, groups * grids(l, i)) + first * grids(l, i),
                 part<sdk::bf16>(store, 3 * i + 2, groups * grids(l, i)) + first * grids(l, i));
  }

  double ratio_[2];
  int bits_;
  int64_t window_;
  Fit fit_;
  double alpha_;
  int64_t samples_, length_;
};

constexpr tn_hyper_info kRatioK = sdk::real("ratio_k", "0.5", 0, 1, TN_RANGE_OPEN_MIN, nullptr, "share of the keys' channels that is kept"),
                        kRatioV = sdk::real("ratio_v", "0.5", 0, 1, TN_RANGE_OPEN_MIN, nullptr, "share of the values' channels that is kept"),
                        kBits = sdk::choice("bits", "16", "32|16|4", "of a stored feature"),
                        kWindow = sdk::integer("window", "32", 0, 1 << 20, "tokens", "newest tokens that stay exact"),
                        kFit = sdk::choice("fit", "gram", "gram|weighted|plain", "factors that are best for the calibration text's inputs, for their channels' sizes, or for the weight alone"),
                        kAlpha = sdk::real("alpha", "0.5", 0, 1, 0, nullptr, "power of a channel's size in fit=weighted"),
                        kSamples = sdk::integer("samples", "16", 1, 1 << 16, "sequences", "of calibration text"),
                        kLength = sdk::integer("sample_length", "512", 2, 1 << 20, "tokens", "of one of them");
constexpr const tn_hyper_info* kHypers[] = {&kRatioK, &kRatioV, &kBits, &kWindow, &kFit, &kAlpha, &kSamples, &kLength};
constexpr tn_quantizer_api kApi = sdk::quantizer_api<Codec>();
constexpr tn_kv kKv = sdk::kv_table<Codec>();
const void* extension(const char* id) { return std::string_view(id) == TN_EXT_KV ? &kKv : nullptr; }
constexpr tn_plugin kPlugin = sdk::describe(TN_KIND_QUANTIZER, "cskv", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::cskv

TENON_PLUGIN(tenon::cskv::kPlugin)
