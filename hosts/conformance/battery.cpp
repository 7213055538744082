// Runs the checks of a plugin, each in a child process.
#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/plugins/host.h"
#include "core/plugins/kinds.h"
#include "core/sentence.h"
#include "hosts/conformance/check.h"
#include "hosts/conformance/child.h"

namespace tenon::conformance {
namespace {

constexpr char kOk = 'o', kFailed = 'f', kNotApplicable = 'n';

// In the child. The answer's first letter is the outcome.
std::string answer_of(const Target& target, const Check& check) {
  try {
    Subject subject(target);
    check.run(subject);
    return {kOk};
  } catch (const Failed& f) {
    return kFailed + f.sentence;
  } catch (const NotApplicable& n) {
    return kNotApplicable + n.reason;
  } catch (const NoDevice& n) {
    return kNotApplicable + n.reason;
  } catch (const Error& e) {
    return kFailed + std::string(e.what());
  } catch (const std::exception& e) {
    return kFailed + std::string("an exception left the plugin: ") + clean_sentence(e.what());
  } catch (...) {
    return kFailed + std::string("an exception left the plugin");
  }
}

CheckResult to_result(const Check& check, const ChildOutcome& child) {
  CheckResult r;
  r.name = check.name, r.proves = check.proves;
  if (!child.answered) {
    r.outcome = CheckResult::Outcome::kFailed;
    r.reason = "the plugin " + child.ending;
    if (!child.printed.empty()) r.reason += " after \"" + clean_sentence(child.printed) + '"';
    return r;
  }
  if (child.answer[0] != kOk)
    r.outcome = child.answer[0] == kFailed ? CheckResult::Outcome::kFailed : CheckResult::Outcome::kNotApplicable;
  r.reason = clean_sentence(std::string_view(child.answer).substr(1));
  return r;
}

// The kind and how the object loads, asked in a child too. Answers TN_KIND_UNDEFINED with `result` filled where it does
// not load.
uint32_t kind_of(const Target& target, const Options& options, CheckResult& result) {
  const Check load{"load", "the object loads, negotiates and describes itself", nullptr};
  const ChildOutcome child = run_in_child(
      [&]() -> std::string {
        try {
          return kOk + std::to_string(Subject(target).plugin().kind());
        } catch (const Error& e) {
          return kFailed + std::string(e.what());
        } catch (...) {
          return kFailed + std::string("an exception left the plugin");
        }
      },
      options.timeout);
  result = to_result(load, child);
  if (result.outcome != CheckResult::Outcome::kOk) return TN_KIND_UNDEFINED;
  return static_cast<uint32_t>(std::stoul(std::exchange(result.reason, {})));
}

std::span<const Check> checks_of(uint32_t kind) {
  switch (kind) {
    case TN_KIND_OPTIMIZER:
      return optimizer_checks();
    case TN_KIND_QUANTIZER:
      return quantizer_checks();
    case TN_KIND_ADAPTER:
      return adapter_checks();
    case TN_KIND_ATTENTION:
      return attention_checks();
    default:
      return device_checks();
  }
}

}  // namespace

std::vector<CheckResult> run_battery(const Target& target, const Options& options) {
  using Clock = std::chrono::steady_clock;
  std::vector<CheckResult> results;
  const auto wanted = [&](const char* name) {
    return options.only.empty() || std::find(options.only.begin(), options.only.end(), name) != options.only.end();
  };
  const auto add = [&](CheckResult r) {
    results.push_back(std::move(r));
    if (options.on_result) options.on_result(results.back());
  };
  CheckResult load;
  const uint32_t kind = kind_of(target, options, load);
  if (kind == TN_KIND_UNDEFINED || wanted("load")) add(load);
  if (kind == TN_KIND_UNDEFINED) return results;
  CheckResult silence;
  silence.name = "silence", silence.proves = "nothing is written to standard output or standard error";
  for (const std::span<const Check> checks : {general_checks(), checks_of(kind), kind == TN_KIND_ATTENTION ? mixer_checks() : kind == TN_KIND_ADAPTER ? region_checks() : std::span<const Check>()}) {
    for (const Check& check : checks) {
      if (!wanted(check.name) && !wanted("silence")) continue;
      const auto begin = Clock::now();
      const ChildOutcome child = run_in_child(
          [&] {
            set_log_sink({});  // what a plugin tells the host's log is not printed by it
            return answer_of(target, check);
          },
          options.timeout);
      CheckResult r = to_result(check, child);
      r.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      // What a crash prints belongs to the crash.
      if (child.answered && !child.printed.empty() && silence.reason.empty()) {
        silence.outcome = CheckResult::Outcome::kFailed;
        silence.reason = "during " + r.name + " it printed \"" + clean_sentence(child.printed) + '"';
      }
      if (wanted(check.name)) add(std::move(r));
    }
  }
  if (wanted("silence")) add(std::move(silence));
  return results;
}

bool conforms(const std::vector<CheckResult>& results) {
  return std::none_of(results.begin(), results.end(),
                      [](const CheckResult& r) { return r.outcome == CheckResult::Outcome::kFailed; });
}

// A report of another status is stale: it belongs to an earlier call.
std::string sentence_for(int32_t status) {
  const Report said = take_report();
  return said.status == status ? said.sentence : std::string();
}

void must(int32_t status, const std::string& doing) {
  if (status >= 0) return;
  const std::string said = sentence_for(status);
  failed(doing + " failed (" + status_name(status) + "): " + (said.empty() ? "the plugin gave no reason" : said));
}

bool accepted(int32_t status, const std::string& doing) {
  if (status >= 0) return true;
  expect(std::string_view(status_name(status)) != "TN_?",
         doing + " answered " + std::to_string(status) + ", which is not a status of the ABI");
  expect(!sentence_for(status).empty(),
         doing + " was refused (" + status_name(status) + ") without a sentence through tn_host.error");
  return false;
}

void refused(int32_t status, const std::string& doing) {
  const std::string said = sentence_for(status);
  expect(!said.empty(), doing + " was refused (" + status_name(status) + ") without a sentence through tn_host.error");
  throw NotApplicable{said};
}

}  // namespace tenon::conformance
