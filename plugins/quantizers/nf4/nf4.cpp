#include "quantizers/nf4/codec.h"
#if TN_GPU
#include "quantizers/nf4/gpu_linear.h"
#else
#include "quantizers/nf4/encode.h"
#include "quantizers/nf4/linear.h"
#include "quantizers/nf4/products.h"
#endif

namespace tenon::nf4 {
namespace {

#if !TN_GPU

constexpr int64_t kTask = 16384;  // elements: a multiple of every block

template <class T>
void decode_range(const tn_exec* exec, const float (&book)[16], const Parts& parts, int64_t blocksize, int64_t begin,
                  int64_t end, T* dst) {
  const int64_t first = begin / kTask, tasks = begin < end ? sdk::ceil_div(end, kTask) - first : 0;
  sdk::for_each_block(exec, tasks, [=, &book](const sdk::Block& task) {
    const int64_t stop = std::min(end, (first + task.index + 1) * kTask);
    int64_t i = std::max(begin, (first + task.index) * kTask);
    for (int64_t block = i / blocksize; i < stop; ++block) {
      const int64_t next = std::min(stop, (block + 1) * blocksize);
      decode_run(book, parts.scale(block), parts.codes, i, next, dst + (i - begin));
      i = next;
    }
  });
}

#endif

// Rows of activations that the fused product takes.
int64_t most_rows([[maybe_unused]] const tn_target& target) {
#if TN_GPU
  if (target.ndim == 2 && mma::takes_tiles(nullptr, target.shape[1], target.dtype)) return mma::kMostTiledRows;
#endif
  return kMaxRows;
}

constexpr tn_hyper_info kQuantType = sdk::choice(
    "quant_type", "nf4", "nf4|fp4", "code book: quantiles of the normal distribution, or 4-bit floating point");
constexpr tn_hyper_info kBlocksize =
    sdk::choice("blocksize", "64", "32|64|128|256|512|1024|2048|4096", "elements that share one scale");
constexpr tn_hyper_info kDoubleQuant =
    sdk::flag("double_quant", "false", "hold the scales themselves in 8 bits: 4.127 instead of 4.5 bits a weight");
constexpr const tn_hyper_info* kHypers[] = {&kQuantType, &kBlocksize, &kDoubleQuant};

constexpr tn_quantizer_api kApi = sdk::quantizer_api<Codec>();

#if !TN_GPU
constexpr tn_linears kLinears = sdk::linears_table<Codec>();
#endif

const void* extension(const char* id) {
#if !TN_GPU
  if (std::strcmp(id, TN_EXT_LINEARS) == 0) return &kLinears;
#endif
  return std::strcmp(id, TN_EXT_LAYOUT) == 0 ? &kLayout : nullptr;
}

const tn_plugin kPlugin = sdk::describe(TN_KIND_QUANTIZER, "nf4", "0.9.0", kHypers, &kApi, extension);

}  // namespace

Codec::Codec(const tn_host*, const sdk::Hypers& hypers)
    : book_(hypers.text("quant_type") == "fp4" ? &kFp4 : &kNf4),
      blocksize_(std::stoll(std::string(hypers.text("blocksize")))),
      double_quant_(hypers.flag("double_quant")) {}

void Codec::supports(const tn_query& query) const {
  sdk::require_floats(query, "nf4");
}

void Codec::plan(const tn_target& target, const tn_component_sink& sink) const {
  const Sizes s(target, blocksize_);
  sdk::declare(sink, "codes", sdk::kU8, s.codes, 4);
  sdk::declare(sink, "absmax", double_quant_ ? sdk::kU8 : sdk::kF32, s.blocks, 0, double_quant_ ? 0u : uint32_t{TN_COMPONENT_TRAINABLE});
  if (!double_quant_) return;
  sdk::declare(sink, "nested_absmax", sdk::kF32, s.nested);
  sdk::declare(sink, "nested_offset", sdk::kF32, 1);
}

void Codec::estimate(const tn_device_api*, tn_device*, const tn_target& target, uint32_t op, int64_t rows,
                     tn_estimate& out) const {
  const Sizes s(target, blocksize_);
  const int64_t state = s.codes + (double_quant_ ? s.blocks + 4 * s.nested + 4 : 4 * s.blocks);
  const double bytes = static_cast<double>(state) / static_cast<double>(std::max<int64_t>(s.n, 1));  // per element
  const double element = target.dtype.bits / 8.0;
  if (op == TN_QUANTIZER_ENCODE) {
    sdk::set_estimate(out, 20.0 * rows, (bytes + element) * rows, state,
                      sdk::FirstBad::kBytes + (double_quant_ ? 4 * s.blocks : 0));
  } else if (op == TN_QUANTIZER_DECODE) {
    sdk::set_estimate(out, 1.0 * rows, (bytes + element) * rows, state);
  } else if (op == TN_QUANTIZER_LINEAR && target.ndim == 2 && rows <= most_rows(target)) {
    sdk::set_estimate(out, 2.0 * rows * s.n,
                      static_cast<double>(state) + 4.0 * rows * (target.shape[0] + target.shape[1]), state,
                      4 * rows * target.shape[1]);
  } else {
    sdk::fail(TN_E_UNSUPPORTED, "nf4: the fused product serves matrices and at most " + std::to_string(most_rows(target)) +
                                    " rows of activations; decode and multiply instead");
  }
}

void Codec::encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components,
                   const tn_rng*) const {
  const Sizes s(target, blocksize_);
  const Parts parts(s, double_quant_, components);
  sdk::check_source(target, src, s.n);
  char* const memory = sdk::workspace<char>(exec, sdk::FirstBad::kBytes + (double_quant_ ? 4 * s.blocks : 0));
  float* absmax = double_quant_ ? reinterpret_cast<float*>(memory + sdk::FirstBad::kBytes) : parts.absmax;
  sdk::FirstBad bad(exec);
  sdk::with_float_type(src.dtype, "nf4: a tensor to quantize", [&](auto type) {
    const auto* x = sdk::data<const decltype(type)>(src);
#if TN_GPU
    nf4::encode(exec, *book_, x, s.n, blocksize_, parts.codes, absmax, bad.found());
#else
    if (book_ == &kNf4)
      nf4::encode<kNf4>(exec, x, s.n, blocksize_, parts.codes, absmax, bad.found());
    else
      nf4::encode<kFp4>(exec, x, s.n, blocksize_, parts.codes, absmax, bad.found());
#endif
  });
  bad.raise(target, blocksize_);
  if (double_quant_) encode_scales(exec, absmax, s, parts);
}

void Codec::decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin,
                   int64_t end, tn_tensor& dst) const {
  const Sizes s(target, blocksize_);
  const Parts parts(s, double_quant_, components);
  sdk::check_range(target, s.n, begin, end, dst);
  sdk::with_float_type(dst.dtype, "nf4: a decoded tensor", [&](auto type) {
    decode_range(exec, book_->value, parts, blocksize_, begin, end, sdk::data<decltype(type)>(dst));
  });
}

void Codec::linear(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, const tn_tensor& x,
                   double alpha, double beta, tn_tensor& y) const {
  const Sizes s(target, blocksize_);
  const Parts parts(s, double_quant_, components);
  const sdk::Product p(target, x, y, most_rows(target));
#if TN_GPU
  sdk::with_float_type(x.dtype, "nf4: the input of a product", [&](auto type) {
    nf4::linear(exec, book_->value, parts, blocksize_, p.m, p.n, sdk::data<const decltype(type)>(x), p.rows, alpha, beta, y);
  });
#else
  sdk::with_float_type(y.dtype, "nf4: the product", [&]<class Y>(Y) {
    nf4::linear<Y>(exec, book_->value, {{parts, p.m, sdk::data<Y>(y)}}, blocksize_, p.n, sdk::as_floats(exec, x), p.rows, alpha, beta);
  });
#endif
}

#if !TN_GPU

void Codec::estimate_linears(const tn_target* const* targets, uint64_t n, int64_t rows, tn_estimate& out) const {
  sdk::sum_of_linears(*this, targets, n, rows, out);
}

void Codec::linears(const tn_exec* exec, const tn_target* const* targets, tn_tensor* const* const* components, uint64_t n, const tn_tensor& x,
                    tn_tensor* const* y) const {
  if (n == 0) return;
  sdk::with_float_type(y[0]->dtype, "nf4: the product", [&]<class Y>(Y) {
    std::vector<Weight<Y>> weights;
    int64_t rows = 0;
    for (uint64_t i = 0; i < n; ++i) {
      const sdk::Product p(*targets[i], x, *y[i], most_rows(*targets[i]));
      weights.push_back({Parts(Sizes(*targets[i], blocksize_), double_quant_, components[i]), p.m, sdk::contiguous<Y>(y[i], "nf4: the product")});
      rows = p.rows;
    }
    nf4::linear(exec, book_->value, weights, blocksize_, targets[0]->shape[1], sdk::as_floats(exec, x), rows, 1, 0);
  });
}

#endif

}  // namespace tenon::nf4

TENON_PLUGIN(tenon::nf4::kPlugin)
