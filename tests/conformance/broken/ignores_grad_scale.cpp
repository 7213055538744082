// Does not look at grad_scale.
#include "plain.h"

namespace tenon::gallery {
namespace {

struct Broken : Plain {
  using Plain::Plain;
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) {
      tn_item item = *items[i];
      item.grad_scale = 1;
      update(*exec, item);
    }
  }
};

constexpr tn_optimizer_api kApi = optimizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
