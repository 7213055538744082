// Lets an exception leave through the C table.
#include <stdexcept>

#include "plain.h"

namespace tenon::gallery {
namespace {

int32_t apply(tn_optimizer*, const tn_exec*, const tn_item* const*, uint64_t) {
  throw std::runtime_error("not today");
}

constexpr tn_optimizer_api table() {
  tn_optimizer_api t = optimizer_api<Plain>();
  t.apply = apply;
  return t;
}
constexpr tn_optimizer_api kApi = table();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
