// The border of the C interface: no exception crosses it.
#pragma once

#include <cstdint>

#include "core/c_api/arguments.h"

namespace tenon::c_api {

// Status and sentence of the exception in flight; keeps the sentence for tn_last_error.
int32_t caught() noexcept;

template <class F>
int32_t guard(F&& action) noexcept {
  try {
    action();
    return 0;
  } catch (...) {
    return caught();
  }
}

}  // namespace tenon::c_api
