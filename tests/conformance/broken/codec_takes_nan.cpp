// Codes NaN as 0 without a word.
#include "codec.h"

namespace tenon::gallery {
namespace {

struct Broken : Codec {
  using Codec::Codec;
  void encode(const tn_exec*, const tn_target& t, const tn_tensor& src, tn_tensor* const* components, const tn_rng*) {
    float top = 0;
    each(src, elements(t), [&](int64_t, float x) { top = std::isfinite(x) ? std::max(top, std::fabs(x)) : top; });
    data<float>(*components[1])[0] = top / 127;
    each(src, elements(t), [&](int64_t i, float x) {
      data<int8_t>(*components[0])[i] =
          static_cast<int8_t>(std::isfinite(x) && top > 0 ? std::lround(x / top * 127) : 0);
    });
  }
};

constexpr tn_quantizer_api kApi = quantizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
