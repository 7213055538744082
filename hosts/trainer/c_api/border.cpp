#include "hosts/trainer/c_api/border.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "core/error.h"
#include "core/plugins/host.h"
#include "hosts/cli/arguments.h"
#include "tenon/trainer.h"

namespace tenon::trainer::c_api {
namespace {

thread_local std::string last_error;

}  // namespace

int32_t caught() noexcept {
  int32_t code = TN_E_INTERNAL;
  try {
    try {
      throw;
    } catch (const Error& e) {
      code = e.code();
      last_error = e.what();
    } catch (const cli::Usage& e) {
      code = TN_E_ARGUMENT;
      last_error = e.what();
    } catch (const std::bad_alloc&) {
      code = TN_E_MEMORY;
      last_error = "the system has no memory left for the trainer's own data; use a smaller model, batch or data file";
    } catch (const std::exception& e) {
      last_error = "a defect of Tenon, please report it: " + clean_sentence(e.what());
    }
  } catch (...) {
    last_error.clear();
  }
  return code;
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
