// The control: nothing is wrong with this one.
#include "plain.h"

namespace tenon::gallery {
namespace {

constexpr tn_optimizer_api kApi = optimizer_api<Plain>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
