// The llm-int8 quantizer (Dettmers et al. 2022).
#include "quantizers/llm-int8/layout.h"
#include "quantizers/llm-int8/rows.h"
#include "sdk/linalg/matrix.h"
#include "sdk/quantizer.h"
#include "sdk/workspace.h"
#include "tenon/gemm8.h"
#include "tenon/input_rounding.h"
#if TN_GPU
#include "quantizers/llm-int8/gpu_outliers.h"
#endif

namespace tenon::llm_int8 {
namespace {

constexpr int64_t kApart = 32;  // outlier columns that are multiplied at a time

// dst[0, end − begin) = elements [begin, end) of the weight with these codes.
template <class T>
void decode_range(const tn_exec* exec, const int8_t* codes, const float* scales, int64_t n, int64_t begin, int64_t end, T* out) {
  const int64_t first = begin / n;
  sdk::for_each_block(
      exec, sdk::ceil_div(end, n) - first,
      [=] TN_KERNEL(const sdk::Block& block) {
        const int64_t row = first + block.index, from = begin > row * n ? begin : row * n, to = end < (row + 1) * n ? end : (row + 1) * n;
        const float scale = scales[row] / kLevels;
        const int8_t* const q = codes + from;
        T* const p = out + (from - begin);
        block.each(to - from, [=](int64_t j) { p[j] = sdk::from_float<T>(static_cast<float>(q[j]) * scale); });
      },
      n);
}

class Codec {
 public:
  static constexpr uint32_t kSites = TN_SITE_WEIGHT;

  Codec(const tn_host*, const sdk::Hypers& h) : threshold_(static_cast<float>(h.real("threshold"))) {}

  void supports(const tn_query& q) const { sdk::require_floats(q, "llm-int8"); }

  void plan(const tn_target& target, const tn_component_sink& sink) const {
    const Shape s(target);
    sdk::declare(sink, "codes", sdk::kI8, s.m * s.n, 8);
    sdk::declare(sink, "scale", sdk::kF32, s.m);
  }
  void estimate(const tn_device_api* api, tn_device* device, const tn_target& target, uint32_t op, int64_t rows, tn_estimate& out) const {
    const Shape s(target);
    const double elements = static_cast<double>(s.m * s.n);
    const uint64_t state = static_cast<uint64_t>(s.m * s.n + 4 * s.m);
    if (op == TN_QUANTIZER_LINEAR_BACKWARD) sdk::fail(TN_E_UNSUPPORTED, "llm-int8 multiplies gradients by the decoded weight; decode and multiply");
    if (op != TN_QUANTIZER_LINEAR) return sdk::set_estimate(out, 4 * elements, static_cast<double>(state) + elements * target.dtype.bits / 8, state,
                                                                 op == TN_QUANTIZER_ENCODE ? sdk::FirstBad::kBytes : 0);
    const tn_gemm8* const integer = integer_product(api);
    if (!integer) sdk::fail(TN_E_UNSUPPORTED, "llm-int8: this device multiplies no 8-bit integers (org.tenon.gemm8/1); decode and multiply");
    sdk::Workspace w;
    const Scratch scratch(w, s, rows);
    out.workspace_bytes = 0;
    sdk::set_estimate(out, 2 * elements * static_cast<double>(rows), static_cast<double>(state + static_cast<uint64_t>(8 * rows * (s.m + s.n))), state,
                      w.peak() + product_bytes(api, device, *integer, s, rows));
  }

  void encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components, const tn_rng*) const {
    const Shape s(target);
    sdk::check_source(target, src, s.m * s.n);
    int8_t* const codes = sdk::component<int8_t>(components, 0, "codes", s.m * s.n);
    float* const scales = sdk::component<float>(components, 1, "scale", s.m);
    sdk::FirstBad bad(exec);
    sdk::with_float_type(src.dtype, "llm-int8: a weight", [&](auto type) {
      using T = decltype(type);
      code_weight(exec, sdk::data<const T>(src), s.m, s.n, codes, scales, bad.found());
    });
    bad.raise(target, s.n);
  }
  void decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin, int64_t end, tn_tensor& dst) const {
    const Shape s(target);
    sdk::check_range(target, s.m * s.n, begin, end, dst);
    const int8_t* const codes = sdk::component<int8_t>(components, 0, "codes", s.m * s.n);
    const float* const scales = sdk::component<float>(components, 1, "scale", s.m);
    if (begin == end) return;
    sdk::with_float_type(dst.dtype, "llm-int8: a decoded weight", [&](auto type) {
      using T = decltype(type);
      decode_range(exec, codes, scales, s.n, begin, end, sdk::data<T>(dst));
    });
  }

  float threshold() const { return threshold_; }

  void linear(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, const tn_tensor& x, double alpha, double beta, tn_tensor& y) const {
    const sdk::Product p(target, x, y, int64_t{1} << 40);
    const Shape s(target);
    if (p.rows == 0 || s.m == 0) return;
    const int8_t* const codes = sdk::component<int8_t>(components, 0, "codes", s.m * s.n);
    const float* const scales = sdk::component<float>(components, 1, "scale", s.m);
    sdk::Workspace space(*exec);
    const Scratch w(space, s, p.rows);
    sdk::with_float_type(x.dtype, "llm-int8: the input of a product", [&](auto type) {
      using T = decltype(type);
      const T* const in = sdk::data<const T>(x);
      find_outliers(exec, in, p.rows, s.n, threshold_, w.keep);
      code_input(exec, in, p.rows, s.n, w.keep, w.input, w.input_scales);
      const tn_gemm8* const integer = integer_product(exec->api);
      if (!integer) sdk::fail(TN_E_UNSUPPORTED, "llm-int8: this device multiplies no 8-bit integers");
      sdk::check(integer->run(exec->device, exec->stream, p.rows, s.m, s.n, w.input, s.n, codes, s.n, w.sums, s.m, space.behind(w.products),
                              space.bytes_behind(w.products)));
      sdk::with_float_type(y.dtype, "llm-int8: the result of a product", [&](auto to) { scale_sums(exec, p.rows, s.m, alpha, beta, w, scales, sdk::data<decltype(to)>(y)); });
      add_outliers(exec, in, p.rows, s, w, space, codes, scales, alpha, y);
    });
  }

  // What serves the functions above, public for nvcc, which takes kernels nowhere else.

  // Rows of the last axis.
  struct Shape {
    int64_t m, n;
    explicit Shape(const tn_target& t) {
      const int64_t count = sdk::elements(t);
      n = t.ndim > 0 ? t.shape[t.ndim - 1] : 1, m = n > 0 ? count / n : 0;
    }
  };
  struct Scratch {
    float *keep, *input_scales;
    int8_t* input;
    int32_t* sums;
    int64_t* apart;
    float *outliers, *weights;
    uint64_t products;
    Scratch(sdk::Workspace& w, const Shape& s, int64_t rows)
        : keep(w.take<float>(s.n)),
          input_scales(w.take<float>(rows)),
          input(w.take<int8_t>(rows * s.n)),
          sums(w.take<int32_t>(rows * s.m)),
          apart(w.take<int64_t>(s.n + 1)),
          outliers(w.take<float>(TN_GPU ? 0 : rows * kApart)),
          weights(w.take<float>(TN_GPU ? 0 : kApart * s.m)),
          products(w.mark()) {}
  };
  static const tn_gemm8* integer_product(const tn_device_api* api) {
    return api && api->get_extension ? static_cast<const tn_gemm8*>(api->get_extension(TN_EXT_GEMM8)) : nullptr;
  }
  static uint64_t product_bytes(const tn_device_api* api, tn_device* device, const tn_gemm8& integer, const Shape& s, int64_t rows) {
    uint64_t bytes = 0;
    sdk::check(integer.workspace(device, rows, s.m, s.n, &bytes));
    if constexpr (TN_GPU) return bytes;  // what is apart has a kernel of its own there
    const auto f = [](tn_dtype type, int64_t r, int64_t c) { return sdk::Matrix::dense(static_cast<void*>(nullptr), type, r, c); };
    const sdk::Products products(api, device);
    for (const tn_dtype type : {sdk::kF32, sdk::kBF16})
      bytes = std::max(bytes, products.measure(f(sdk::kF32, rows, kApart), f(sdk::kF32, kApart, s.m), f(type, rows, s.m), 1, 1));
    return bytes;
  }

  template <class T>
  static void scale_sums(const tn_exec* exec, int64_t rows, int64_t m, double alpha, double beta, const Scratch& w, const float* scales, T* y) {
    const float b = static_cast<float>(beta);
    sdk::for_each_block(
        exec, rows,
        [=] TN_KERNEL(const sdk::Block& row) {
          const float a = static_cast<float>(alpha / (double{kLevels} * kLevels)) * w.input_scales[row.index];
          const int32_t* const sums = w.sums + row.index * m;
          T* const out = y + row.index * m;
          if (b == 0)
            row.each(m, [=](int64_t i) { out[i] = sdk::from_float<T>(static_cast<float>(sums[i]) * (a * scales[i])); });
          else
            row.each(m, [=](int64_t i) { out[i] = sdk::from_float<T>(static_cast<float>(sums[i]) * (a * scales[i]) + b * sdk::to_float(out[i])); });
        },
        m);
  }

  // y += alpha · X[:, O] decode(W)[:, O]ᵀ, some columns at a time.
  template <class T>
  static void add_outliers(const tn_exec* exec, const T* x, int64_t rows, const Shape& s, const Scratch& w, sdk::Workspace& space, const int8_t* codes,
                           const float* scales, double alpha, tn_tensor& y) {
#if TN_GPU
    tenon::llm_int8::add_outliers(exec, AddOutliers<T>{rows, s.m, s.n, x, codes, scales, w.apart, static_cast<float>(alpha), sdk::floats(y, "llm-int8: the result of a product")},
                                  w.keep, w.apart);
    (void)space;
#else
    int64_t n_apart = 0;
    for (int64_t j = 0; j < s.n; ++j)
      if (w.keep[j] == 0) w.apart[n_apart++] = j;
    if (n_apart == 0) return;
    const int64_t width = s.n, height = s.m;
    const sdk::Products products(exec->api, exec->device, exec->stream, space.behind(w.products), space.bytes_behind(w.products));
    for (int64_t first = 0; first < n_apart; first += kApart) {
      const int64_t n = std::min(kApart, n_apart - first);
      const int64_t* const columns = w.apart + first;
      // Columns that are missing from the last few are zeros, so that one plan serves all.
      float *const outliers = w.outliers, *const weights = w.weights;
      sdk::for_each(exec, rows * kApart, [=] TN_KERNEL(int64_t i) {
        const int64_t c = i % kApart;
        outliers[i] = c < n ? sdk::to_float(x[i / kApart * width + columns[c]]) : 0.0f;
      });
      sdk::for_each(exec, kApart * height, [=] TN_KERNEL(int64_t i) {
        const int64_t c = i / height, row = i % height;
        weights[i] = c < n ? static_cast<float>(codes[row * width + columns[c]]) * (scales[row] / kLevels) : 0.0f;
      });
      const sdk::Matrix out = sdk::Matrix::dense(sdk::data<char>(y), y.dtype, rows, s.m);
      products(alpha, sdk::Matrix::dense(w.outliers, rows, kApart), sdk::Matrix::dense(w.weights, kApart, s.m), 1, out);
    }
#endif
  }

 private:
  float threshold_;
};

constexpr tn_hyper_info kThreshold = sdk::real("threshold", "6", 0, sdk::kInfinity, TN_RANGE_OPEN_MAX, nullptr,
                                               "input columns with a magnitude from here on are multiplied apart, in f32; 0: none");
constexpr const tn_hyper_info* kHypers[] = {&kThreshold};
constexpr tn_quantizer_api kApi = sdk::quantizer_api<Codec>();
constexpr tn_input_rounding kRounding = {TN_SIZE_TO(tn_input_rounding, share), 0, 0.02};

using Holder = sdk::QuantizerThunks<Codec>::Holder;
Holder* of(tn_quantizer* self) { return reinterpret_cast<Holder*>(self); }
void require_layout(const char* layout) {
  if (std::string_view(layout) != "bitsandbytes") sdk::fail(TN_E_UNSUPPORTED, std::string("llm-int8 speaks the layout bitsandbytes, not ") + layout);
}
void send(const tn_sink& sink, const std::string& text) { sdk::check(sink.write(sink.self, text.data(), text.size())); }

constexpr const char* kNames[] = {"bitsandbytes", nullptr};
constexpr tn_layout kLayout{
    TN_SIZE_TO(tn_layout, read_config), 0, kNames,
    [](tn_quantizer* self, const char* layout, const tn_target* target, tn_tensor* const* components, void* context,
       int32_t (*put)(void*, const char*, const tn_tensor*)) -> int32_t {
      return sdk::guard(of(self)->host, [&] { require_layout(layout), to_external(*target, components, context, put); });
    },
    [](tn_quantizer* self, const char* layout, const tn_target* target, void* context, const tn_tensor* (*get)(void*, const char*),
       tn_tensor* const* components) -> int32_t {
      return sdk::guard(of(self)->host, [&] { require_layout(layout), from_external(*target, context, get, components); });
    },
    [](tn_quantizer* self, const char* layout, const tn_sink* sink) -> int32_t {
      return sdk::guard(of(self)->host, [&] { require_layout(layout), send(*sink, config_text(of(self)->codec.threshold())); });
    },
    [](const tn_host* host, const char* layout, const char* config, const tn_sink* hypers) -> int32_t {
      return sdk::guard(host, [&] { require_layout(layout), send(*hypers, hypers_text(config)); });
    }};

const void* extension(const char* id) {
  const std::string_view name(id);
  return name == TN_EXT_INPUT_ROUNDING ? static_cast<const void*>(&kRounding) : name == TN_EXT_LAYOUT ? &kLayout : nullptr;
}
constexpr tn_plugin kPlugin = sdk::describe(TN_KIND_QUANTIZER, "llm-int8", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::llm_int8

TENON_PLUGIN(tenon::llm_int8::kPlugin)
