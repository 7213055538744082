// Says yes to every host, and exports a second symbol.
#include "plain.h"

namespace tenon::gallery {
namespace {

constexpr tn_optimizer_api kApi = optimizer_api<Plain>();
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "exhibit", "1.0.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::gallery

extern "C" TN_EXPORT int32_t tn_plugin_entry(uint32_t, uint32_t, const tn_host*, const tn_plugin** out) {
  return *out = &tenon::gallery::kPlugin, TN_OK;
}
extern "C" TN_EXPORT int32_t tn_plugin_entry_too() {
  return 1;
}
