// The border of the trainer's C interface: no exception crosses it.
#pragma once

#include <cstdint>
#include <string_view>

namespace tenon::trainer::c_api {

// Status and sentence of the exception in flight; keeps the sentence for tn_trainer_last_error.
int32_t caught() noexcept;

// An allocated copy for the caller, freed by tn_trainer_free_string.
char* copy_text(std::string_view text);

// Throws TN_E_ARGUMENT where a pointer that must be given is null.
void need(const void* pointer, const char* name);

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
