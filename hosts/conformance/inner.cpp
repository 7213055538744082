#include "hosts/conformance/inner.h"

#include "core/plugins/host.h"
#include "sdk/adam.h"
#include "sdk/optimizer.h"
#include "sdk/parameters.h"

namespace tenon::conformance {
namespace {

class Plain {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME;
  Plain(const tn_host*, const sdk::Hypers&) {}
  void supports(const tn_query& q) const { sdk::supports_dense("the battery's inner optimizer", q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind("the battery's inner optimizer", params, n); }
  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    sdk::declare_like(sink, "exp_avg", sdk::kF32, parameters_.at(uid).info);
    sdk::declare_like(sink, "exp_avg_sq", sdk::kF32, parameters_.at(uid).info);
  }
  void estimate(const tn_device_api*, tn_device*, uint32_t uid, tn_estimate& out) const {
    out.state_bytes = 8 * static_cast<uint64_t>(parameters_.at(uid).n);
  }
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    for (uint64_t i = 0; i < n; ++i) {
      parameters_.check(*items[i]);
      sdk::adam_update(exec, {0.9, 0.999, 1e-8, 1e-2}, *items[i], false);
    }
  }

 private:
  sdk::Parameters parameters_;
};

constexpr tn_optimizer_api kApi = sdk::optimizer_api<Plain>();
constexpr const tn_hyper_info* kNoHypers[] = {nullptr};
constexpr tn_plugin kPlugin = [] {
  tn_plugin p = sdk::describe(TN_KIND_OPTIMIZER, "plain", "0.9.0", kNoHypers, &kApi);
  p.n_hypers = 0;
  return p;
}();

}  // namespace

std::pair<const tn_plugin*, tn_optimizer*> open_plain_inner(std::string_view) {
  tn_optimizer* self = nullptr;
  check(kApi.create(host(), nullptr, 0, &self), "creating the battery's inner optimizer");
  return {&kPlugin, self};
}

}  // namespace tenon::conformance
