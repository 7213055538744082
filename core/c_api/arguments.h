// What every C interface does with arguments and results.
#pragma once

#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <string_view>

#include "core/error.h"

namespace tenon::c_api {

// An allocated copy for the caller, freed by the interface's own free_string.
inline char* copy_text(std::string_view text) {
  char* const copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (!copy) throw std::bad_alloc();
  if (!text.empty()) std::memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  return copy;
}

// Throws TN_E_ARGUMENT where a pointer that must be given is null.
inline void need(const void* pointer, const char* name) {
  if (!pointer) throw Error(TN_E_ARGUMENT, std::string("the argument ") + name + " is null");
}

}  // namespace tenon::c_api
