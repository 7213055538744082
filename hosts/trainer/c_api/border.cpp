#include "hosts/trainer/c_api/border.h"

#include <cstdlib>
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

}  // namespace tenon::trainer::c_api

const char* tn_trainer_last_error(void) { return tenon::trainer::c_api::last_error.c_str(); }
void tn_trainer_free_string(char* text) { std::free(text); }
