// The one exception type of libtenon and the hosts: a status code of the ABI and one sentence for the user.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "tenon/status.h"

namespace tenon {

// `what()` is one complete sentence that names the thing, the value, the limit and the fix. It is shown to users as it is.
class Error : public std::runtime_error {
 public:
  Error(int32_t code, const std::string& sentence) : std::runtime_error(sentence), code_(code) {}
  int32_t code() const noexcept { return code_; }

 private:
  int32_t code_;
};

// Name ("TN_E_MEMORY") and default message of a status code; unknown codes answer "TN_?" and "unknown status".
const char* status_name(int32_t code) noexcept;
const char* status_message(int32_t code) noexcept;

}  // namespace tenon
