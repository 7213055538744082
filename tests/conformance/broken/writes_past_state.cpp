// Writes one element past the end of its state.
#include "plain.h"

namespace tenon::gallery {
namespace {

struct Broken : Plain {
  using Plain::Plain;
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    Plain::apply(exec, items, n);
    for (uint64_t i = 0; i < n; ++i) data<float>(*items[i]->states[0])[count(*items[i]->param)] = 1;
  }
};

constexpr tn_optimizer_api kApi = optimizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
