// The host's side of a call that a plugin makes.
#pragma once

#include <cstdint>

#include "tenon/status.h"

namespace tenon {

// Reports the exception in flight as a plugin would, and answers its status.
int32_t report_exception() noexcept;

// Nothing may be thrown through a plugin's frames: what `body` throws becomes a report and a status.
template <class F>
int32_t answer(F&& body) noexcept {
  try {
    body();
    return TN_OK;
  } catch (...) {
    return report_exception();
  }
}

}  // namespace tenon
