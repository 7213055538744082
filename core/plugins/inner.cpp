#include "core/plugins/inner.h"

#include "core/error.h"
#include "core/plugins/answer.h"
#include "core/plugins/host.h"

namespace tenon {
namespace {

thread_local const InnerOpener* current = nullptr;

int32_t open(const tn_host*, const char* spec, const tn_plugin** plugin, tn_optimizer** self) {
  return answer([&] {
    if (!current) throw Error(TN_E_STATE, "an inner optimizer can only be opened while the one around it is created");
    const auto [opened, instance] = (*current)(spec ? spec : "");
    *plugin = opened, *self = instance;
  });
}

}  // namespace

InnerScope::InnerScope(InnerOpener opener) : opener_(std::move(opener)), before_(current) {
  current = &opener_;
}
InnerScope::~InnerScope() {
  current = before_;
}

const tn_inner* inner_table() noexcept {
  static constexpr tn_inner kTable = {TN_SIZE_TO(tn_inner, open), 0, open};
  return current ? &kTable : nullptr;
}

}  // namespace tenon
