// The border of the trainer's C interface: no exception crosses it.
#pragma once

#include <cstdint>

#include "core/c_api/arguments.h"

namespace tenon::trainer::c_api {

// Status and sentence of the exception in flight; keeps the sentence for tn_trainer_last_error.
int32_t caught() noexcept;

using tenon::c_api::copy_text;
using tenon::c_api::need;

template <class F>
int32_t guard(F&& action) noexcept {
  try {
    action();
    return 0;
  } catch (...) {
    return caught();
  }
}

}  // namespace tenon::trainer::c_api
