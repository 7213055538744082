// The gguf-blocks quantizer: one component, "blocks", holds the tensor's bytes as a GGUF file does.
#include "quantizers/gguf-blocks/types.h"
#include "sdk/codec.h"
#include "sdk/for_each.h"
#include "sdk/quantizer.h"
#if !TN_GPU
#include "quantizers/gguf-blocks/linear.h"
#endif

namespace tenon::gguf {
namespace {

#if TN_GPU
inline constexpr int64_t kMaxRows = 8;  // beyond, decoding a panel and multiplying it is faster
inline constexpr int64_t kRun = 256;    // elements: a multiple of every block
#else
constexpr int64_t kTask = 4096;  // elements: a multiple of every block

// Elements [begin, end) from blocks that cover them; `blocks` is the start of the tensor.
template <class T>
void decode_run(const Type& type, const uint8_t* blocks, int64_t begin, int64_t end, T* dst) {
  float run[kRun];
  const int64_t size = type.elements;
  for (int64_t i = begin; i < end;) {
    const int64_t block = i / size, skip = i % size;
    const uint8_t* from = blocks + block * type.bytes;
    int64_t count;
    if (skip != 0 || end - i < size) {  // part of a block
      type.decode(from, 1, run);
      count = std::min(size - skip, end - i);
      sdk::convert(run + skip, dst, count);
    } else if constexpr (std::is_same_v<T, float>) {
      count = (end - i) / size * size;
      type.decode(from, count / size, dst);
    } else {
      count = std::min(kRun, end - i) / size * size;
      type.decode(from, count / size, run);
      sdk::convert(run, dst, count);
    }
    i += count, dst += count;
  }
}

#endif

class Codec {
 public:
  static constexpr uint32_t kSites = TN_SITE_WEIGHT | TN_SITE_KV_CACHE;

  Codec(const tn_host*, const sdk::Hypers& hypers) : type_(find_type(hypers.text("type"))) {
    if (!type_) sdk::fail(TN_E_ARGUMENT, "gguf-blocks: there is no type " + std::string(hypers.text("type")));
  }

  void supports(const tn_query& query) const {
    sdk::require_floats(query, "gguf-blocks");
    if (query.ndim > 0) require_fit("a tensor", query.shape[query.ndim - 1]);
  }

  void plan(const tn_target& target, const tn_component_sink& sink) const {
    if (target.site != TN_SITE_WEIGHT && !type_->keeps_zero)
      sdk::fail(TN_E_UNSUPPORTED, sdk::name_of(target) + ": " + type_->name +
                                      " does not keep 0, so it serves weights alone; use Q8_0, Q6_K, Q5_0 or Q4_0");
    sdk::declare(sink, "blocks", sdk::kU8, bytes(target), type_->code_bits);
  }

  void estimate(const tn_device_api*, tn_device*, const tn_target& target, uint32_t op, int64_t rows,
                tn_estimate& out) const {
    const int64_t state = bytes(target);
    const double each = static_cast<double>(type_->bytes) / type_->elements, element = target.dtype.bits / 8.0;
    if (op == TN_QUANTIZER_ENCODE) {
      require_writable(target);
      sdk::set_estimate(out, 10.0 * rows, (each + element) * rows, state, sdk::FirstBad::kBytes);
    } else if (op == TN_QUANTIZER_DECODE) {
      sdk::set_estimate(out, 2.0 * rows, (each + element) * rows, state);
    } else if (op == TN_QUANTIZER_LINEAR && target.ndim == 2 && rows <= kMaxRows) {
      sdk::set_estimate(out, 2.0 * rows * target.shape[0] * target.shape[1],
                        static_cast<double>(state) + 4.0 * rows * (target.shape[0] + target.shape[1]), state,
                        workspace_bytes(rows, target.shape[1]));
    } else {
      sdk::fail(TN_E_UNSUPPORTED, "gguf-blocks: the fused product serves matrices and at most " +
                                      std::to_string(kMaxRows) + " rows of activations; decode and multiply instead");
    }
  }

  void encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components,
              const tn_rng*) const {
    require_writable(target);
    uint8_t* blocks = sdk::component<uint8_t>(components, 0, "blocks", bytes(target));
    const int64_t n = sdk::elements(target);
    sdk::check_source(target, src, n);
    sdk::FirstBad bad(exec), large(exec, 1);
#if TN_GPU
    type_->encode(exec, floats(src, kSource), n, kRun, type_->largest, blocks, bad.found(), large.found());
#else
    sdk::with_float_type(src.dtype, kSource, [&](auto source) {
      const auto* x = sdk::data<const decltype(source)>(src);
      const Type& type = *type_;
      const auto no_number = bad.found(), too_large = large.found();
      sdk::for_each_block(exec, sdk::ceil_div(n, kRun), [=, &type](const sdk::Block& task) {
        float run[kRun];
        const int64_t begin = task.index * kRun, count = std::min(kRun, n - begin);
        sdk::convert(x + begin, run, count);
        const float a = sdk::absmax(run, count);
        if (!sdk::is_finite(a)) return no_number(task.index);
        if (a > type.largest) return too_large(task.index);
        type.encode(run, count / type.elements, blocks + begin / type.elements * type.bytes);
      });
    });
#endif
    bad.raise(target, kRun);
    if (large.first() >= 0)
      sdk::fail(TN_E_NUMERIC, sdk::name_of(target) + ": a magnitude is above " + std::to_string(type_->largest) +
                                  ", the most that " + type_->name + " can hold; use type=F32");
  }

  void decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin, int64_t end,
              tn_tensor& dst) const {
    const uint8_t* blocks = sdk::component<uint8_t>(components, 0, "blocks", bytes(target));
    sdk::check_range(target, sdk::elements(target), begin, end, dst);
#if TN_GPU
    type_->decode(exec, blocks, begin, end, floats(dst, kDecoded));
#else
    const int64_t first = begin / kTask, tasks = begin < end ? sdk::ceil_div(end, kTask) - first : 0;
    sdk::with_float_type(dst.dtype, kDecoded, [&](auto to) {
      auto* out = sdk::data<decltype(to)>(dst);
      const Type& type = *type_;
      sdk::for_each_block(exec, tasks, [=, &type](const sdk::Block& task) {
        const int64_t from = std::max(begin, (first + task.index) * kTask),
                      stop = std::min(end, (first + task.index + 1) * kTask);
        decode_run(type, blocks, from, stop, out + (from - begin));
      });
    });
#endif
  }

  void linear(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, const tn_tensor& x,
              double alpha, double beta, tn_tensor& y) const {
    const uint8_t* blocks = sdk::component<uint8_t>(components, 0, "blocks", bytes(target));
    const sdk::Product p(target, x, y, kMaxRows);
#if TN_GPU
    type_->linear(exec, blocks, p, floats(x, "the input of a product"), alpha, beta, floats(y, kProduct));
#else
    sdk::with_float_type(y.dtype, kProduct, [&]<class Y>(Y) {
      gguf::linear<Y>(exec, *type_, {{blocks, p.m, sdk::data<Y>(y)}}, p.rows, p.n, x, alpha, beta);
    });
#endif
  }

#if !TN_GPU
  void estimate_linears(const tn_target* const* targets, uint64_t n, int64_t rows, tn_estimate& out) const {
    sdk::sum_of_linears(*this, targets, n, rows, out);
  }
  void linears(const tn_exec* exec, const tn_target* const* targets, tn_tensor* const* const* components, uint64_t n, const tn_tensor& x,
               tn_tensor* const* y) const {
    if (n == 0) return;
    sdk::with_float_type(y[0]->dtype, kProduct, [&]<class Y>(Y) {
      std::vector<Weight<Y>> weights;
      int64_t rows = 0;
      for (uint64_t i = 0; i < n; ++i) {
        const sdk::Product p(*targets[i], x, *y[i], kMaxRows);
        weights.push_back({sdk::component<uint8_t>(components[i], 0, "blocks", bytes(*targets[i])), p.m, sdk::contiguous<Y>(y[i], kProduct)});
        rows = p.rows;
      }
      gguf::linear(exec, *type_, weights, rows, targets[0]->shape[1], x, 1, 0);
    });
  }
#endif

 private:
  // Rows begin with a block, as in a GGUF file.
  void require_fit(const std::string& name, int64_t row) const {
    if (row % type_->elements == 0) return;
    sdk::fail(TN_E_UNSUPPORTED, name + ": rows of " + std::to_string(row) + " elements do not fill the blocks of " +
                                    std::to_string(type_->elements) + " that " + type_->name +
                                    " has; use type=" + fallback(*type_, row));
  }
  void require_writable(const tn_target& target) const {
    if (!type_->encode)
      sdk::fail(TN_E_UNSUPPORTED, sdk::name_of(target) + ": " + type_->name +
                                      " can be read but not written; use Q8_0, Q6_K, Q5_K, Q4_K, Q3_K, Q2_K, IQ4_NL, "
                                      "Q5_1, Q5_0, Q4_1, Q4_0, BF16, F16 or F32");
  }
  int64_t workspace_bytes(int64_t rows, int64_t n) const {
#if TN_GPU
    return 4 * rows * n;
#else
    return linear_workspace(*type_, rows, n);
#endif
  }
  int64_t bytes(const tn_target& target) const {
    const int64_t n = sdk::elements(target);
    require_fit(sdk::name_of(target), target.ndim > 0 ? target.shape[target.ndim - 1] : 1);
    if (n > int64_t{1} << 59) sdk::fail(TN_E_ARGUMENT, sdk::name_of(target) + ": the tensor is too large");
    return n / type_->elements * type_->bytes;
  }

  static constexpr const char *kSource = "gguf-blocks: a tensor to quantize", *kDecoded = "gguf-blocks: a decoded tensor",
                              *kProduct = "gguf-blocks: the product";
  const Type* type_;
};

constexpr tn_hyper_info kType = sdk::choice(
    "type", "Q4_K", kTypeChoices, "block type; rows that do not fill its blocks are refused with the type that fits");
constexpr const tn_hyper_info* kHypers[] = {&kType};
constexpr tn_quantizer_api kApi = sdk::quantizer_api<Codec>();

#if TN_GPU
constexpr auto extension = sdk::no_extension;
#else
constexpr tn_linears kLinears = sdk::linears_table<Codec>();
const void* extension(const char* id) { return std::strcmp(id, TN_EXT_LINEARS) == 0 ? &kLinears : nullptr; }
#endif

constexpr tn_plugin kPlugin = sdk::describe(TN_KIND_QUANTIZER, "gguf-blocks", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::gguf

TENON_PLUGIN(tenon::gguf::kPlugin)
