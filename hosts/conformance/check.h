// What a check is, and how it says what it found.
#pragma once

#include <span>
#include <string>

#include "hosts/conformance/subject.h"

namespace tenon::conformance {

// Ends a check. `sentence` is shown to the plugin's author.
struct Failed {
  std::string sentence;
};
struct NotApplicable {
  std::string reason;
};
// There is no device to run on: nothing of the kind is judged. A type of its own, so that no loop over settings takes it for a refusal.
struct NoDevice {
  std::string reason;
};

[[noreturn]] inline void failed(std::string sentence) {
  throw Failed{std::move(sentence)};
}
inline void expect(bool held, const std::string& sentence) {
  if (!held) failed(sentence);
}

// The plugin's words for the refusal with this status that just happened, or "".
std::string sentence_for(int32_t status);
// Fails with the plugin's own words where the status is negative.
void must(int32_t status, const std::string& doing);
// False where the plugin refused; fails where it refused without a word, or with a status that the ABI does not know.
bool accepted(int32_t status, const std::string& doing);

// Throws NotApplicable with the words of the refusal that just happened; without words it is a failure.
[[noreturn]] void refused(int32_t status, const std::string& doing);

struct Check {
  const char* name;
  const char* proves;
  void (*run)(Subject& subject);
};

// Of every kind, and of one.
std::span<const Check> general_checks();
std::span<const Check> optimizer_checks();
std::span<const Check> quantizer_checks();
std::span<const Check> adapter_checks();
std::span<const Check> attention_checks();
std::span<const Check> mixer_checks();   // of attention plugins that own their projections
std::span<const Check> region_checks();  // of adapters that run the stack of blocks
std::span<const Check> device_checks();

}  // namespace tenon::conformance
