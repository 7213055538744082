// Loops over settings and cases of which a plugin may refuse some in words, but not all.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "hosts/conformance/check.h"

namespace tenon::conformance {

class Attempts {
 public:
  // Calls body(); a refusal (NotApplicable) is noted, anything else goes on.
  template <class Body>
  void attempt(Body body) {
    try {
      body();
      any_ = true;
    } catch (const NotApplicable& n) {
      refusal_ = n.reason;
    }
  }
  // Whether one was not refused.
  bool any() const { return any_; }
  // Of the last that was refused.
  const std::string& refusal() const { return refusal_; }

 private:
  bool any_ = false;
  std::string refusal_;
};

// body(run, setting in words, spec) with a Run(subject, spec) for each of the settings.
template <class Run, class Body>
void each_variant(Subject& s, const std::vector<std::map<std::string, std::string>>& variants, Body body) {
  Attempts attempts;
  for (const auto& values : variants)
    attempts.attempt([&] {
      const Spec spec = s.spec(values);
      Run run(s, spec);
      body(run, words(values), spec);
    });
  if (!attempts.any()) throw NotApplicable{attempts.refusal()};
}

// The settings, with their words, for which probe(spec) is not refused; `refusal`: the last of the others.
template <class Probe>
std::vector<std::pair<std::string, Spec>> accepted_settings(Subject& s, const std::vector<std::map<std::string, std::string>>& variants, std::string& refusal, Probe probe) {
  std::vector<std::pair<std::string, Spec>> out;
  Attempts attempts;
  for (const auto& values : variants)
    attempts.attempt([&] {
      const Spec spec = s.spec(values);
      probe(spec);
      out.emplace_back(words(values), spec);
    });
  refusal = attempts.refusal();
  return out;
}

}  // namespace tenon::conformance
