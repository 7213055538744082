// The blockwise-8bit quantizer: a block's largest magnitude, and per element the nearest value of the dynamic map to
// x/absmax.
#include <limits>

#include "sdk/codec.h"
#include "sdk/dynamic_codec.h"
#include "sdk/for_each.h"
#include "sdk/quantizer.h"
#if !TN_GPU && defined(__AVX512BW__)
#include "sdk/groups_avx512.h"
#endif
#if TN_GPU
#include "quantizers/blockwise-8bit/gpu.h"
#endif

namespace tenon::blockwise {
namespace {

#if !TN_GPU

constexpr int64_t kTask = 4096;  // elements: a multiple of every block

// Codes the block x[0, n); its scale comes back. `below` is raised if a value is negative.
template <bool Signed, class T>
float encode_block(const sdk::Block& task, const sdk::DynamicEncoder<Signed>& nearest, const T* x, int64_t n, uint8_t* codes, bool& below) {
  float run[kTask];
  sdk::convert(x, run, n);
  const float a = sdk::absmax(run, n);
  if (!sdk::is_finite(a)) return a;
  if constexpr (!Signed)
    for (int64_t i = 0; i < n; ++i) below |= run[i] < 0;
  // The reciprocal of a subnormal overflows; a block of zeros keeps its zeros.
  const bool tiny = a < std::numeric_limits<float>::min();
  if (tiny && a > 0)
    for (int64_t i = 0; i < n; ++i) run[i] /= a;
  sdk::encode_dynamic<Signed>(task, nearest, run, tiny ? 1.0f : 1.0f / a, codes, n);
  return a;
}

template <bool Signed, class T>
void encode_blocks(const tn_exec* exec, const sdk::DynamicEncoder<Signed>& nearest, const T* x, int64_t n,
                   int64_t blocksize, uint8_t* codes, float* absmax, sdk::FirstBad::Found bad,
                   sdk::FirstBad::Found negative) {
  sdk::for_each_block(exec, sdk::ceil_div(n, kTask), [=, &nearest](const sdk::Block& task) {
    const int64_t first = task.index * kTask, end = std::min(n, first + kTask);
    int64_t begin = first;
    bool below = false;
    const auto one = [&](int64_t from) {
      const float a = encode_block<Signed>(task, nearest, x + from, std::min(blocksize, end - from), codes + from, below);
      if (!sdk::is_finite(a)) bad(from / blocksize);
      absmax[from / blocksize] = a;
    };
#if defined(__AVX512BW__)
    const sdk::DynamicCodes<Signed, false> code_of(nearest);
    __mmask16 negatives = 0;
    begin += sdk::code_blocks(
        x + first, end - first, blocksize, 1.0f, absmax + first / blocksize,
        [&](int64_t at, int64_t count, auto factor_of) __attribute__((always_inline)) {
          const T* const from = x + first + at;
          sdk::encode_groups<sdk::kInterleaves<T>>(
              code_of, count,
              [&](int64_t i, __m512(&v)[4]) __attribute__((always_inline)) {
                sdk::read_group<T, sdk::kInterleaves<T>>(from + i, v);
                if constexpr (!Signed)
                  for (const __m512 part : v) negatives |= _mm512_cmp_ps_mask(part, _mm512_setzero_ps(), _CMP_LT_OQ);
              },
              [&](int64_t i) __attribute__((always_inline)) {
                sdk::fetch_ahead<1>(from + i);
                return factor_of(at + i);
              },
              codes + first + at);
        },
        [&](int64_t block) { one(first + block * blocksize); });
    below |= negatives != 0;
#endif
    for (; begin < end; begin += blocksize) one(begin);
    if (below) negative(first / blocksize);
  });
}

template <bool Signed, class T>
void decode_range(const tn_exec* exec, const uint8_t* codes, const float* absmax,
                  int64_t blocksize, int64_t begin, int64_t end, T* dst) {
  const int64_t first = begin / kTask, tasks = begin < end ? sdk::ceil_div(end, kTask) - first : 0;
  sdk::for_each_block(exec, tasks, [=](const sdk::Block& task) {
    const int64_t stop = std::min(end, (first + task.index + 1) * kTask);
    for (int64_t i = std::max(begin, (first + task.index) * kTask); i < stop;) {
      const int64_t next = std::min(stop, (i / blocksize + 1) * blocksize);
      const float a = absmax[i / blocksize];
      if constexpr (std::is_same_v<T, float>) {
        sdk::decode_dynamic<Signed>(task, codes + i, a, dst + (i - begin), next - i);
      } else {
        float run[kTask];
        sdk::decode_dynamic<Signed>(task, codes + i, a, run, next - i);
        sdk::convert(run, dst + (i - begin), next - i);
      }
      i = next;
    }
  });
}

// Values that are too few to code.
template <class From, class To>
void copy_values(const tn_exec*, const From* from, To* to, int64_t n) {
  sdk::convert(from, to, n);
}
inline void find_bad(const tn_exec*, const float* values, int64_t n, sdk::FirstBad::Found bad) {
  if (!sdk::is_finite(sdk::absmax(values, n))) bad(0);
}

#endif

// Optimizer states of fewer elements are not worth coding and stay in f32: one component, "values".
constexpr int64_t kMinState = 4096;

struct Sizes {
  int64_t n, blocks;
  bool plain;
  Sizes(const tn_target& target, int64_t blocksize)
      : n(sdk::elements(target)),
        blocks(sdk::ceil_div(n, blocksize)),
        plain(target.site == TN_SITE_OPTIMIZER_STATE && n < kMinState) {}
};

class Codec {
 public:
  static constexpr uint32_t kSites = TN_SITE_WEIGHT | TN_SITE_OPTIMIZER_STATE | TN_SITE_ACTIVATION | TN_SITE_KV_CACHE | TN_SITE_DELTA;

  Codec(const tn_host*, const sdk::Hypers& hypers)
      : blocksize_(std::stoll(std::string(hypers.text("blocksize")))), signed_(hypers.flag("signed")) {}

  void supports(const tn_query& query) const { sdk::require_floats(query, "blockwise-8bit"); }

  void plan(const tn_target& target, const tn_component_sink& sink) const {
    const Sizes s(target, blocksize_);
    if (s.plain) return sdk::declare(sink, "values", sdk::kF32, s.n);
    sdk::declare(sink, "codes", sdk::kU8, s.n, 8);
    sdk::declare(sink, "absmax", sdk::kF32, s.blocks, 0, TN_COMPONENT_TRAINABLE);
  }

  void estimate(const tn_device_api*, tn_device*, const tn_target& target, uint32_t op, int64_t rows,
                tn_estimate& out) const {
    if (op != TN_QUANTIZER_ENCODE && op != TN_QUANTIZER_DECODE)
      sdk::fail(TN_E_UNSUPPORTED, "blockwise-8bit has no fused product; decode and multiply instead");
    const Sizes s(target, blocksize_);
    const double each = 1.0 + 4.0 / static_cast<double>(blocksize_) + target.dtype.bits / 8.0;
    sdk::set_estimate(out, (op == TN_QUANTIZER_ENCODE ? 10.0 : 1.0) * rows, each * rows,
                      s.plain ? 4 * s.n : s.n + 4 * s.blocks, op == TN_QUANTIZER_ENCODE ? sdk::FirstBad::kBytes : 0);
  }

  void encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components,
              const tn_rng*) const {
    const Sizes s(target, blocksize_);
    sdk::check_source(target, src, s.n);
    sdk::FirstBad bad(exec, 0), negative(exec, 1);
    if (s.plain) {
      float* values = sdk::component<float>(components, 0, "values", s.n);
      sdk::with_float_type(src.dtype, "blockwise-8bit: a tensor to quantize",
                           [&](auto type) { copy_values(exec, sdk::data<const decltype(type)>(src), values, s.n); });
      find_bad(exec, values, s.n, bad.found());
      return bad.raise(target, s.n);
    }
    uint8_t* codes = sdk::component<uint8_t>(components, 0, "codes", s.n);
    float* absmax = sdk::component<float>(components, 1, "absmax", s.blocks);
    sdk::with_float_type(src.dtype, "blockwise-8bit: a tensor to quantize", [&](auto type) {
      const auto* x = sdk::data<const decltype(type)>(src);
      if (signed_)
        encode_blocks(exec, signed_encoder_, x, s.n, blocksize_, codes, absmax, bad.found(), negative.found());
      else
        encode_blocks(exec, unsigned_encoder_, x, s.n, blocksize_, codes, absmax, bad.found(), negative.found());
    });
    bad.raise(target, blocksize_);
    if (negative.first() >= 0)
      sdk::fail(TN_E_ARGUMENT,
                sdk::name_of(target) +
                    ": a negative value cannot be held by the unsigned map; use blockwise-8bit:signed=true");
  }

  void decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin, int64_t end,
              tn_tensor& dst) const {
    const Sizes s(target, blocksize_);
    sdk::check_range(target, s.n, begin, end, dst);
    if (s.plain) {
      const float* values = sdk::component<float>(components, 0, "values", s.n);
      return sdk::with_float_type(dst.dtype, "blockwise-8bit: a decoded tensor", [&](auto type) {
        copy_values(exec, values + begin, sdk::data<decltype(type)>(dst), end - begin);
      });
    }
    const uint8_t* codes = sdk::component<uint8_t>(components, 0, "codes", s.n);
    const float* absmax = sdk::component<float>(components, 1, "absmax", s.blocks);
    sdk::with_float_type(dst.dtype, "blockwise-8bit: a decoded tensor", [&](auto type) {
      auto* const out = sdk::data<decltype(type)>(dst);
      if (signed_)
        decode_range<true>(exec, codes, absmax, blocksize_, begin, end, out);
      else
        decode_range<false>(exec, codes, absmax, blocksize_, begin, end, out);
    });
  }

 private:
  int64_t blocksize_;
  bool signed_;
  sdk::DynamicEncoder<true> signed_encoder_;
  sdk::DynamicEncoder<false> unsigned_encoder_;
};

constexpr tn_hyper_info kBlocksize =
    sdk::choice("blocksize", "256", "64|128|256|512|1024|2048|4096", "elements that share one scale");
constexpr tn_hyper_info kSigned =
    sdk::flag("signed", "true", "the map with both signs; false: twice as fine, for values that are never negative");
constexpr const tn_hyper_info* kHypers[] = {&kBlocksize, &kSigned};
constexpr tn_quantizer_api kApi = sdk::quantizer_api<Codec>();
constexpr tn_plugin kPlugin = sdk::describe(TN_KIND_QUANTIZER, "blockwise-8bit", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::blockwise

TENON_PLUGIN(tenon::blockwise::kPlugin)
