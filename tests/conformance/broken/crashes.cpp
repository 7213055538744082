// Dereferences null for an empty parameter.
#include "plain.h"

namespace tenon::gallery {
namespace {

struct Broken : Plain {
  using Plain::Plain;
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    for (uint64_t i = 0; i < n; ++i)
      if (count(*items[i]->param) == 0) *static_cast<volatile int*>(nullptr) = 1;
    Plain::apply(exec, items, n);
  }
};

constexpr tn_optimizer_api kApi = optimizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
