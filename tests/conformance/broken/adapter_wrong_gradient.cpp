// Forgets its own path in the gradient of the input.
#define TENON_SKELETON "hosts/cli/templates/adapter.cpp"
#include "skeleton.h"

namespace {

struct Broken : Method {
  using Method::Method;
  void backward(uint32_t site, const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& dy,
                double beta, tn_tensor* dx) const {
    if (dx) check(base.backward(base.self, &dy, 1, beta, dx));
    Method::backward(site, call, base, dy, beta, nullptr);
  }
};

constexpr tn_adapter_api kTable = adapter_api<Broken>();

}  // namespace

TENON_EXHIBIT(TN_KIND_ADAPTER, kHypers, std::size(kHypers), kTable)
