// Never comes back from a gradient of zeros.
#include "plain.h"

namespace tenon::gallery {
namespace {

struct Broken : Plain {
  using Plain::Plain;
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    Plain::apply(exec, items, n);
    volatile bool zero = true;
    for (uint64_t i = 0; i < n; ++i)
      for (int64_t k = 0; k < count(*items[i]->param); ++k) zero = zero && data<float>(*items[i]->grad)[k] == 0;
    while (zero) {
    }
  }
};

constexpr tn_optimizer_api kApi = optimizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
