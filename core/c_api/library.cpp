// Versions, statuses, the last error and the log.
#include <cstdlib>

#include "core/c_api/guard.h"
#include "core/current_error.h"
#include "core/plugins/host.h"
#include "tenon/tenon.h"

namespace tenon::c_api {
namespace {

thread_local std::string last_error;

}  // namespace

int32_t caught() noexcept {
  try {
    const Error e = current_error();
    last_error = e.what();
    return e.code();
  } catch (...) {  // not even the sentence has room
    last_error.clear();
    return TN_E_MEMORY;
  }
}

}  // namespace tenon::c_api

using namespace tenon;

const char* tn_version(void) {
  return TENON_VERSION;
}

void tn_abi_version(uint32_t* major, uint32_t* minor) {
  if (major) *major = TN_ABI_MAJOR;
  if (minor) *minor = TN_ABI_MINOR;
}

const char* tn_status_name(int32_t status) {
  return status_name(status);
}
const char* tn_status_message(int32_t status) {
  return status_message(status);
}
const char* tn_last_error(void) {
  return c_api::last_error.c_str();
}
void tn_free_string(char* text) {
  std::free(text);
}

void tn_set_log(void (*log)(void*, int32_t, const char*), void* self) {
  c_api::guard([&] {
    if (!log) return set_log_sink({});
    set_log_sink([=](int32_t level, std::string_view line) { log(self, level, std::string(line).c_str()); });
  });
}
