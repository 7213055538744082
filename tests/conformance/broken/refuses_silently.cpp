// Refuses without a sentence.
#include "plain.h"

namespace tenon::gallery {
namespace {

int32_t supports(tn_optimizer*, const tn_query* q) {
  return same(q->dtype, kF32) ? TN_OK : TN_E_UNSUPPORTED;
}

constexpr tn_optimizer_api table() {
  tn_optimizer_api t = optimizer_api<Plain>();
  t.supports = supports;
  return t;
}
constexpr tn_optimizer_api kApi = table();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
