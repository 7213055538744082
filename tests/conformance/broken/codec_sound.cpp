// The control among codecs: nothing is wrong with this one.
#include "codec.h"

namespace tenon::gallery {
namespace {

constexpr tn_quantizer_api kApi = quantizer_api<Codec>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
