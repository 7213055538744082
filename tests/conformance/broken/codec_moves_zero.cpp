// Codes 0 half a step too high.
#include "codec.h"

namespace tenon::gallery {
namespace {

struct Broken : Codec {
  using Codec::Codec;
  void decode(const tn_exec* exec, const tn_target& t, tn_tensor* const* components, int64_t begin, int64_t end,
              tn_tensor& dst) {
    Codec::decode(exec, t, components, begin, end, dst);
    const float half = data<float>(*components[1])[0] / 2;
    with_float_type(dst.dtype, "the result", [&]<class T>(T) {
      for (int64_t i = 0; i < end - begin; ++i) data<T>(dst)[i] = from_float<T>(to_float(data<T>(dst)[i]) + half);
    });
  }
};

constexpr tn_quantizer_api kApi = quantizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
