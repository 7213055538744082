// @NAME@: symmetric 8-bit integers with one scale a block. Replace encode, decode, the components and the estimate by
// your codec's.
#include "sdk/quantizer.h"
#include "sdk/codec.h"
#include "sdk/for_each.h"

namespace {

using namespace tenon::sdk;

constexpr int64_t kMostBlock = 1024;
constexpr tn_hyper_info kBlockSize =
    integer("blocksize", "64", 1, kMostBlock, "elements", "elements that share one scale");
constexpr const tn_hyper_info* kHypers[] = {&kBlockSize};

class Codec {
 public:
  static constexpr uint32_t kSites = TN_SITE_WEIGHT | TN_SITE_DELTA;

  Codec(const tn_host*, const Hypers& h) : block_(h.integer("blocksize")) {}

  void supports(const tn_query& q) const { require_cpu_floats(q, "@NAME@"); }
  void plan(const tn_target& target, const tn_component_sink& sink) const {
    const int64_t n = elements(target);
    declare(sink, "codes", kU8, n, 8);
    declare(sink, "scales", kF32, ceil_div(n, block_));
  }
  void estimate(const tn_device_api*, tn_device*, const tn_target& target, uint32_t op, int64_t rows,
                tn_estimate& out) const {
    if (op != TN_QUANTIZER_ENCODE && op != TN_QUANTIZER_DECODE)
      fail(TN_E_UNSUPPORTED, "@NAME@ has no fused product; decode and multiply instead");
    const int64_t n = elements(target);
    set_estimate(out, 2.0 * static_cast<double>(rows), (1 + target.dtype.bits / 8.0) * static_cast<double>(rows),
                 static_cast<uint64_t>(n + 4 * ceil_div(n, block_)));
  }
  void encode(const tn_exec* exec, const tn_target& target, const tn_tensor& src, tn_tensor* const* components,
              const tn_rng*) const {
    const int64_t n = elements(target), block = block_, blocks = ceil_div(n, block);
    check_source(target, src, n);
    auto* codes = reinterpret_cast<int8_t*>(component<uint8_t>(components, 0, "codes", n));
    float* scales = component<float>(components, 1, "scales", blocks);
    FirstBad bad(exec);
    const FirstBad::Found found = bad.found();
    with_float_type(src.dtype, "@NAME@: a tensor to quantize", [&](auto type) {
      const auto* x = data<const decltype(type)>(src);
      for_each_block(exec, blocks, [=](const Block& b) {
        const int64_t begin = b.index * block, count = std::min(block, n - begin);
        float run[kMostBlock];
        convert(x + begin, run, count);
        const float top = absmax(run, count), scale = top / 127;
        scales[b.index] = scale;
        if (!is_finite(top)) return found(b.index);
        for (int64_t i = 0; i < count; ++i)
          codes[begin + i] = static_cast<int8_t>(scale > 0 ? std::lrint(run[i] / scale) : 0);
      });
    });
    bad.raise(target, block);
  }
  void decode(const tn_exec* exec, const tn_target& target, tn_tensor* const* components, int64_t begin, int64_t end,
              tn_tensor& dst) const {
    const int64_t n = elements(target), block = block_;
    check_range(target, n, begin, end, dst);
    const auto* codes = reinterpret_cast<const int8_t*>(component<uint8_t>(components, 0, "codes", n));
    const float* scales = component<float>(components, 1, "scales", ceil_div(n, block));
    with_float_type(dst.dtype, "@NAME@: a decoded tensor", [&](auto type) {
      using T = decltype(type);
      T* out = data<T>(dst);
      for_each(exec, end - begin,
               [=](int64_t i) { out[i] = from_float<T>(scales[(begin + i) / block] * codes[begin + i]); });
    });
  }

 private:
  int64_t block_;
};

constexpr tn_quantizer_api kApi = quantizer_api<Codec>();
constexpr tn_plugin kPlugin = describe(TN_KIND_QUANTIZER, "@ID@", "0.1.0", kHypers, &kApi);

}  // namespace

TENON_PLUGIN(kPlugin)
