// The codec: options, sizes, decoding and the fused product. encode.cpp makes the stack.
#include "quantizers/bitstack/codec.h"
#if TN_GPU
#include "quantizers/bitstack/gpu.h"
#else
#include "quantizers/bitstack/lookup.h"
#endif

namespace tenon::bitstack {
namespace {

constexpr tn_hyper_info kRank = sdk::integer("k", "16", 1, 64, "columns", "rank of the magnitudes of a segment");
constexpr tn_hyper_info kSegments = sdk::integer("niter", "16", 1, 64, "segments", "segments of a weight");
constexpr tn_hyper_info kScaled = sdk::flag("scale_weight", "true", "weigh the inputs by their norms over calibration text; false: no text is needed");
constexpr tn_hyper_info kSamples = sdk::integer("nsamples", "256", 1, 65536, "sequences", "sequences of calibration text");
constexpr tn_hyper_info kLength = sdk::integer("sample_length", "2048", 2, 1 << 20, "tokens", "tokens of a calibration sequence");
constexpr tn_hyper_info kLevels =
    sdk::integer("scored_levels", "1", 0, 63, "levels", "levels after the first whose order is measured by losses; later ones repeat it; 15 is the paper's");
constexpr tn_hyper_info kScoreSamples = sdk::integer("score_samples", "32", 1, 65536, "sequences", "sequences of text for such a loss");
constexpr tn_hyper_info kScoreLength = sdk::integer("score_length", "256", 2, 1 << 20, "tokens", "tokens of such a sequence");
constexpr const tn_hyper_info* kHypers[] = {&kRank, &kSegments, &kScaled, &kSamples, &kLength, &kLevels, &kScoreSamples, &kScoreLength};

constexpr tn_quantizer_api kApi = sdk::quantizer_api<Codec>();
constexpr tn_calibrate kCalibrateApi = sdk::calibrate_api<Codec>();

int32_t segment_plan(tn_quantizer* self, tn_segment_plan* out) {
  auto* holder = sdk::QuantizerThunks<Codec>::of(self);
  return sdk::guard(holder->host, [&] {
    const Options& o = holder->codec.options();
    out->scored_levels = static_cast<uint32_t>(std::min(o.scored_levels, o.segments - 1));
    out->sequences = o.score_samples, out->length = o.score_length;
  });
}
constexpr tn_segmented kSegmentsApi{TN_SIZE_TO(tn_segmented, plan), 0, segment_plan};

const void* extension(const char* id) {
  if (std::strcmp(id, TN_EXT_CALIBRATE) == 0) return &kCalibrateApi;
  return std::strcmp(id, TN_EXT_SEGMENTS) == 0 ? &kSegmentsApi : nullptr;
}

const tn_plugin kPlugin = sdk::describe(TN_KIND_QUANTIZER, "bitstack", "0.9.0", kHypers, &kApi, extension);

#if TN_GPU
struct ProductSpace {
  ProductSpace(sdk::Workspace&, const Sizes&, int64_t) {}
};
double work_of(double each, int64_t rows) { return each + 2.0 * static_cast<double>(rows); }
#else
int64_t padded(const Sizes& s) { return chunks(s) * kChunk; }

// A product's workspace: the inputs times their factors, and for few rows what is looked up.
struct ProductSpace {
  float *scaled, *z;
  ProductSpace(sdk::Workspace& w, const Sizes& s, int64_t rows)
      : scaled(w.take<float>(rows * padded(s))), z(rows <= kLookupRows ? w.take<float>(lookup_floats(s)) : nullptr) {}
};
// FLOPs of a weight in a product; each: of decoding it.
double work_of(double each, int64_t rows) { return rows <= kLookupRows ? each / 8 * static_cast<double>(rows) : each + 2.0 * static_cast<double>(rows); }
#endif

}  // namespace

Codec::Codec(const tn_host*, const sdk::Hypers& hypers) {
  Options& o = options_;
  o.rank = hypers.integer("k"), o.segments = hypers.integer("niter"), o.scaled = hypers.flag("scale_weight");
  o.samples = hypers.integer("nsamples"), o.length = hypers.integer("sample_length");
  o.scored_levels = hypers.integer("scored_levels"), o.score_samples = hypers.integer("score_samples"), o.score_length = hypers.integer("score_length");
}

void Codec::supports(const tn_query& query) const { sdk::require_floats(query, "bitstack"); }

void Codec::plan(const tn_target& target, const tn_component_sink& sink) const {
  const Sizes s(target, options_);
  sdk::declare_rows(sink, "signs", sdk::kU8, s.segments, s.m * s.sign_row, 1, TN_COMPONENT_SEGMENTED);
  sdk::declare_rows(sink, "u", sdk::kF16, s.segments, s.m * s.rank, 0, TN_COMPONENT_SEGMENTED);
  sdk::declare_rows(sink, "v", sdk::kF16, s.segments, s.rank * s.n, 0, TN_COMPONENT_SEGMENTED);
  sdk::declare(sink, "columns", sdk::kF32, s.n);
}

void Codec::estimate(const tn_device_api* api, tn_device* device, const tn_target& target, uint32_t op, int64_t rows, tn_estimate& out) const {
  const Sizes s(target, options_);
  const double each = (2.0 * static_cast<double>(s.rank) + 2) * static_cast<double>(s.segments);
  if (op == TN_QUANTIZER_ENCODE) {
    estimate_calibrated(api, device, target, out);
  } else if (op == TN_QUANTIZER_DECODE) {
    sdk::set_estimate(out, each * rows, static_cast<double>(s.bytes()), s.bytes());
  } else if (op == TN_QUANTIZER_LINEAR && target.ndim == 2 && rows <= kMaxRows) {
    sdk::Workspace space;
    const ProductSpace parts(space, s, rows);
    sdk::set_estimate(out, work_of(each, rows) * s.m * s.n, static_cast<double>(s.bytes()) + 4.0 * rows * (s.m + s.n), s.bytes(), space.peak());
  } else {
    sdk::fail(TN_E_UNSUPPORTED, "bitstack: the fused product serves matrices and at most " + std::to_string(kMaxRows) +
                                    " rows of activations; decode and multiply instead");
  }
}

void Codec::decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin, int64_t end, tn_tensor& dst) const {
  const Sizes s(target, options_);
  const Parts parts(s, components);
  sdk::check_range(target, s.m * s.n, begin, end, dst);
  if (begin == end) return;
#if TN_GPU
  decode_range(exec, s, parts, begin, end, sdk::floats(dst, "bitstack: a decoded tensor"));
#else
  sdk::with_float_type(dst.dtype, "bitstack: a decoded tensor",
                       [&](auto type) { decode_range(exec, s, parts, begin, end, sdk::data<decltype(type)>(dst)); });
#endif
}

void Codec::linear(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, const tn_tensor& x, double alpha, double beta,
                   tn_tensor& y) const {
  const Sizes s(target, options_);
  const Parts parts(s, components);
  const sdk::Product product(target, x, y, kMaxRows);
  if (product.rows == 0) return;
#if TN_GPU
  multiply(exec, s, parts, {product.m, product.n, product.rows, alpha, beta, sdk::floats(y, "bitstack: the product")},
           sdk::floats(x, "bitstack: the input of a product"));
#else
  const int64_t width = padded(s);
  sdk::Workspace space(*exec);
  const ProductSpace memory(space, s, product.rows);
  sdk::with_float_type(x.dtype, "bitstack: the input of a product", [&](auto type) {
    const auto* from = sdk::data<const decltype(type)>(x);
    for (int64_t t = 0; t < product.rows; ++t) {
      float* to = memory.scaled + t * width;
      for (int64_t j = 0; j < s.n; ++j) to[j] = sdk::to_float(from[t * s.n + j]) * parts.columns[j];
      std::fill(to + s.n, to + width, 0.0f);
    }
  });
  sdk::with_float_type(y.dtype, "bitstack: the product", [&](auto type) {
    auto* to = sdk::data<decltype(type)>(y);
    if (product.rows > kLookupRows) return multiply(exec, s, parts, memory.scaled, width, product.rows, alpha, beta, to);
    for (int64_t t = 0; t < product.rows; ++t) {
      spread_input(exec, s, parts, memory.scaled + t * width, memory.z);
      look_up(exec, s, parts, memory.z, alpha, beta, to + t * s.m);
    }
  });
#endif
}

}  // namespace tenon::bitstack

TENON_PLUGIN(tenon::bitstack::kPlugin)
