// Scales the tensor that it is to code in place.
#include "codec.h"

namespace tenon::gallery {
namespace {

struct Broken : Codec {
  using Codec::Codec;
  void encode(const tn_exec* exec, const tn_target& t, const tn_tensor& src, tn_tensor* const* components,
              const tn_rng* rng) {
    Codec::encode(exec, t, src, components, rng);
    if (same(src.dtype, kF32))
      for (int64_t i = 0; i < elements(t); ++i) data<float>(src)[i] *= 0.5f;
  }
};

constexpr tn_quantizer_api kApi = quantizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
