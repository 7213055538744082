// Draws from a source of its own, which another run does not repeat.
#include "plain.h"

namespace tenon::gallery {
namespace {

struct Broken : Plain {
  using Plain::Plain;
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    static uint32_t draws = 1;
    Plain::apply(exec, items, n);
    for (uint64_t i = 0; i < n; ++i)
      if (count(*items[i]->param) > 0) data<float>(*items[i]->states[0])[0] += 1e-3f * static_cast<float>(draws++);
  }
};

constexpr tn_optimizer_api kApi = optimizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
