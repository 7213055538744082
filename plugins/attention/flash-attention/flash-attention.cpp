// FlashAttention (Dao et al. 2022): exact attention in O(T) memory. The kernels are the SDK's.
#include "sdk/attention/flash/kernel.h"

namespace tenon::flash {
namespace {

class FlashAttention : public sdk::flash::DenseKernel {
 public:
  FlashAttention(const tn_host*, const sdk::Hypers&, const tn_attention_config& config)
      : sdk::flash::DenseKernel("flash-attention", config) {}
};

constexpr const tn_hyper_info* kNoHypers[] = {nullptr};
constexpr tn_attention_api kApi = sdk::attention_api<FlashAttention>();
constexpr tn_plugin kPlugin = [] {
  tn_plugin p = sdk::describe(TN_KIND_ATTENTION, "flash-attention", "0.9.0", kNoHypers, &kApi);
  p.n_hypers = 0;
  return p;
}();

}  // namespace
}  // namespace tenon::flash

TENON_PLUGIN(tenon::flash::kPlugin)
