// Scales the gradient in place without having been allowed to.
#include "plain.h"

namespace tenon::gallery {
namespace {

struct Broken : Plain {
  using Plain::Plain;
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    Plain::apply(exec, items, n);
    for (uint64_t i = 0; i < n; ++i)
      with_float_type(items[i]->grad->dtype, "the gradient",
                      [&]<class G>(G) { data<G>(*items[i]->grad)[0] = from_float<G>(0.5f); });
  }
};

constexpr tn_optimizer_api kApi = optimizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
