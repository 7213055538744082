// Estimates fewer bytes of state than it declares.
#include "plain.h"

namespace tenon::gallery {
namespace {

struct Broken : Plain {
  using Plain::Plain;
  void estimate(const tn_device_api* api, tn_device* device, uint32_t uid, tn_estimate& out) {
    Plain::estimate(api, device, uid, out);
    out.state_bytes /= 2;
  }
};

constexpr tn_optimizer_api kApi = optimizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
