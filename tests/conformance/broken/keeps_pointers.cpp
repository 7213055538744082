// Remembers where the state lay in the first step, and goes on there.
#include "plain.h"

namespace tenon::gallery {
namespace {

struct Broken : Plain {
  using Plain::Plain;
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) {
      tn_tensor state = *items[i]->states[0];
      state.data = where_.try_emplace(items[i]->uid, state.data).first->second;
      tn_tensor* states[] = {&state};
      tn_item item = *items[i];
      item.states = states;
      update(*exec, item);
    }
  }
  std::map<uint32_t, void*> where_;
};

constexpr tn_optimizer_api kApi = optimizer_api<Broken>();

}  // namespace
}  // namespace tenon::gallery

TENON_EXHIBIT(tenon::gallery::kApi)
