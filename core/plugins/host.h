// The host side of the ABI: the one tn_host of the process, what plugins report through it, and statuses turned into
// errors.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "tenon/host.h"

namespace tenon {

// The table that every plugin gets. Constant, lives as long as the process. [any-thread]
const tn_host* host() noexcept;

// What a plugin said last on this thread through tn_host.error; status 0 = nothing since the last take. Control
// characters and broken UTF-8 are replaced, so that the sentence can be shown as it is.
struct Report {
  int32_t status = 0;
  std::string sentence;
};
Report take_report() noexcept;

// Throws Error{status, "doing: the plugin's sentence"} where status is negative. A report of another status is stale
// and the message of the status table is used instead.
void check(int32_t status, std::string_view doing);

// Where lines from plugins go; none until it is set. Called from any thread, one call at a time. An empty function =
// drop them.
void set_log_sink(std::function<void(int32_t level, std::string_view sentence)> sink);
void log_line(int32_t level, std::string_view sentence);

}  // namespace tenon
