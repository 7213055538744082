// The conformance battery: one set of checks for every plugin, ours and vendors'.
//
// Each check runs in a child process of its own, so a plugin that crashes, hangs, exits or writes where it should not
// fails that check and harms nothing else. The caller must not have started OpenMP threads yet: they do not survive a
// fork.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace tenon::conformance {

// What is put to the test.
struct Target {
  std::string object;         // the plugin's shared object
  std::string device_object;  // of the device that a technique runs on; empty when the plugin is a device
};

struct CheckResult {
  enum class Outcome { kOk, kFailed, kNotApplicable };
  std::string name;    // "state round trip"
  std::string proves;  // one line: what a pass means
  Outcome outcome = Outcome::kOk;
  std::string reason;  // one sentence, where it is not ok
  double seconds = 0;
};

struct Options {
  std::chrono::milliseconds timeout = std::chrono::seconds(120);  // of one check
  std::vector<std::string> only;                                  // names of checks; empty = all
  std::function<void(const CheckResult&)> on_result;              // as they come
};

// Runs the battery of the plugin's kind. An object that cannot be loaded at all is one failed check, "load".
std::vector<CheckResult> run_battery(const Target& target, const Options& options = {});

// Whether nothing failed.
bool conforms(const std::vector<CheckResult>& results);

}  // namespace tenon::conformance
