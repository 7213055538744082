// What the battery gives to an optimizer that wraps another one: a plain AdamW of its own, whatever spec is asked for.
#pragma once

#include <string_view>
#include <utility>

#include "tenon/inner.h"

namespace tenon::conformance {

std::pair<const tn_plugin*, tn_optimizer*> open_plain_inner(std::string_view spec);

}  // namespace tenon::conformance
