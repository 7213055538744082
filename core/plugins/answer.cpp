#include "core/plugins/answer.h"

#include "core/current_error.h"
#include "core/plugins/host.h"

namespace tenon {

int32_t report_exception() noexcept {
  try {
    const Error e = current_error();
    host()->error(host(), e.code(), e.what());
    return e.code();
  } catch (...) {  // not even the sentence has room
    return TN_E_MEMORY;
  }
}

}  // namespace tenon
