#include "core/error.h"

namespace tenon {

const char* status_name(int32_t code) noexcept {
  switch (code) {
#define TN_CASE(name, value, message) \
  case value:                         \
    return #name;
    TN_STATUS_LIST(TN_CASE)
#undef TN_CASE
  }
  return "TN_?";
}

const char* status_message(int32_t code) noexcept {
  switch (code) {
#define TN_CASE(name, value, message) \
  case value:                         \
    return message;
    TN_STATUS_LIST(TN_CASE)
#undef TN_CASE
  }
  return "unknown status";
}

}  // namespace tenon
