// Plans one component too small for what it writes.
#include "codec.h"

namespace tenon::gallery {
namespace {

struct Broken : Codec {
  using Codec::Codec;
  void plan(const tn_target& t, const tn_component_sink& sink) {
    declare(sink, "codes", kU8, 8, elements(t) / 2);
    declare(sink, "scale", kF32, 0, 1);
  }
};

constexpr tn_quantizer_api kApi = quantizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
