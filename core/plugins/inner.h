// The host's side of org.tenon.inner/1: who opens the optimizers that plugins wrap.
#pragma once

#include <functional>
#include <string_view>
#include <utility>

#include "tenon/inner.h"

namespace tenon {

// Opens what a spec names; throws Error.
using InnerOpener = std::function<std::pair<const tn_plugin*, tn_optimizer*>(std::string_view spec)>;

// While one lives, plugins that are created on this thread find the extension and open through it. Scopes nest.
class InnerScope {
 public:
  explicit InnerScope(InnerOpener opener);
  ~InnerScope();
  InnerScope(const InnerScope&) = delete;

 private:
  InnerOpener opener_;
  const InnerOpener* before_;
};

// The table, or null where no scope lives on this thread.
const tn_inner* inner_table() noexcept;

}  // namespace tenon
