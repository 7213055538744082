#include "core/plugins/host.h"

#include <mutex>
#include <utility>

#include "core/error.h"
#include "core/plugins/inner.h"
#include "core/sentence.h"

namespace tenon {
namespace {

thread_local Report report;

struct Log {
  std::mutex mutex;
  std::function<void(int32_t, std::string_view)> sink;
};

Log& log_state() {
  static Log* const state = new Log;  // outlives plugins that log while the process exits
  return *state;
}

// These three are called by plugins: nothing may be thrown through them.
void on_error(const tn_host*, int32_t status, const char* sentence) {
  try {
    report.status = status;
    report.sentence = clean_sentence(sentence ? sentence : "");
  } catch (...) {
    report.sentence.clear();
  }
}

void on_log(const tn_host*, int32_t level, const char* sentence) {
  try {
    log_line(level, clean_sentence(sentence ? sentence : ""));
  } catch (...) {
  }
}

const void* on_get_extension(const tn_host*, const char* id) {
  if (id && std::string_view(id) == TN_EXT_INNER) return inner_table();
  return nullptr;
}

}  // namespace

const tn_host* host() noexcept {
  static constexpr tn_host kHost = {TN_SIZE_TO(tn_host, get_extension), 0, on_error, on_log, on_get_extension};
  return &kHost;
}

Report take_report() noexcept {
  return std::exchange(report, Report{});
}

void check(int32_t status, std::string_view doing) {
  Report said = take_report();
  if (status >= 0) return;
  const bool fits = said.status == status && !said.sentence.empty();
  throw Error(status, std::string(doing) + ": " + (fits ? said.sentence : std::string(status_message(status))));
}

void set_log_sink(std::function<void(int32_t, std::string_view)> sink) {
  const auto lock = std::lock_guard(log_state().mutex);
  log_state().sink = std::move(sink);
}

void log_line(int32_t level, std::string_view sentence) {
  const auto lock = std::lock_guard(log_state().mutex);
  if (log_state().sink) log_state().sink(level, sentence);
}

}  // namespace tenon
