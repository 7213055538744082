// Which modules an adapter takes: PEFT's matching rules, in PEFT's order.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sdk/adapter/selection.h"
#include "tenon/adapter.h"

namespace tenon::sdk {

// A regular expression over a whole module path, matched in time polynomial in both whatever it says. The constructor
// fails with TN_E_ARGUMENT for one that is not valid or would be too large.
class PathPattern {
 public:
  // suffix: the expression may also match what follows a dot, as the keys of rank_pattern do.
  explicit PathPattern(const std::string& pattern, bool suffix = false);
  bool matches(const std::string& path) const;

 private:
  bool literal_ =
      false;  // only letters, digits, _ and . (any character): compared directly, since files hold thousands
  bool suffix_;
  std::string pattern_;
  struct Compiled;
  std::shared_ptr<const Compiled> compiled_;
};

class Targets {
 public:
  explicit Targets(const Selection& selection);

  bool takes(const tn_site& site) const;
  // Fails with TN_E_UNSUPPORTED where an embedding is meant, which the adapter `who` does not change.
  void refuse_lookups(const char* who, const tn_site* const* sites, uint64_t n) const;
  // Rank and alpha of a module: of the first pattern that matches, in file order, else the fallback.
  int64_t rank_of(const std::string& path, int64_t fallback) const;
  double alpha_of(const std::string& path, double fallback) const;

  // target_modules for a message.
  std::string described() const;
  // Fails with TN_E_NOT_FOUND in the words of an adapter that took none of the model's linears.
  [[noreturn]] void none_taken(const tn_site* const* sites, uint64_t n) const;

 private:
  Selection selection_;
  std::vector<PathPattern> target_, excluded_;  // one or none
  std::vector<std::pair<PathPattern, int64_t>> ranks_;
  std::vector<std::pair<PathPattern, double>> alphas_;
};

}  // namespace tenon::sdk
