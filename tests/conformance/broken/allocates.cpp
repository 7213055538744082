// Takes scratch from the device by itself instead of asking for a workspace.
#include "plain.h"

namespace tenon::gallery {
namespace {

struct Broken : Plain {
  using Plain::Plain;
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    void* scratch = nullptr;
    check(exec->api->alloc(exec->device, 4096, &scratch));
    Plain::apply(exec, items, n);
    exec->api->free(exec->device, scratch);
  }
};

constexpr tn_optimizer_api kApi = optimizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
