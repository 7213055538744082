// Holds a number on the host that no checkpoint has.
#include "plain.h"

namespace tenon::gallery {
namespace {

struct Broken : Plain {
  using Plain::Plain;
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    Plain::apply(exec, items, n);
    ++steps_;
    for (uint64_t i = 0; i < n; ++i)
      if (count(*items[i]->param) > 0) data<float>(*items[i]->states[0])[0] += static_cast<float>(steps_);
  }
  int64_t steps_ = 0;
};

constexpr tn_optimizer_api kApi = optimizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
