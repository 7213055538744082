#include "hosts/trainer/c_api/border.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "core/current_error.h"
#include "hosts/cli/arguments.h"
#include "tenon/trainer.h"

namespace tenon::trainer::c_api {
namespace {

thread_local std::string last_error;

}  // namespace

int32_t caught() noexcept {
  try {
    try {
      throw;
    } catch (const cli::Usage& e) {
      last_error = e.what();
      return TN_E_ARGUMENT;
    } catch (...) {
      const Error e = current_error();
      last_error = e.what();
      return e.code();
    }
  } catch (...) {  // not even the sentence has room
    last_error.clear();
    return TN_E_MEMORY;
  }
}

char* copy_text(std::string_view text) {
  char* const copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (!copy) throw std::bad_alloc();
  std::memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  return copy;
}

void need(const void* pointer, const char* name) {
  if (!pointer) throw Error(TN_E_ARGUMENT, std::string("the argument ") + name + " is null");
}

}  // namespace tenon::trainer::c_api

const char* tn_trainer_last_error(void) { return tenon::trainer::c_api::last_error.c_str(); }
void tn_trainer_free_string(char* text) { std::free(text); }
