// Draws another dropout mask in each call, so that recomputation sees other numbers.
#define TENON_SKELETON "hosts/cli/templates/adapter.cpp"
#include "skeleton.h"

namespace {

struct Broken : Method {
  using Method::Method;
  void forward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& x,
               tn_tensor* y) const {
    tn_adapter_call anew = call;
    anew.rng.stream += ++calls_;
    Method::forward(site, anew, base, x, y);
  }
  mutable uint32_t calls_ = 0;
};

constexpr tn_adapter_api kTable = adapter_api<Broken>();

}  // namespace

TENON_EXHIBIT(TN_KIND_ADAPTER, kHypers, std::size(kHypers), kTable)
