// Which modules an adapter is for, in PEFT's names: what a user writes and what adapter_config.json says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sdk/plugin.h"

namespace tenon::sdk {

struct Selection {
  // target_modules: a list of names or suffixes, a regular expression, or every linear but the head.
  std::vector<std::string> targets;
  std::optional<std::string> target_regex;
  bool all_linear = false;
  std::vector<std::string> excluded;
  std::optional<std::string> excluded_regex;
  std::vector<int64_t> layers;  // layers_to_transform; empty = all
  std::vector<std::string> layers_pattern;
  std::vector<std::pair<std::string, int64_t>> rank_pattern;  // in file order
  std::vector<std::pair<std::string, double>> alpha_pattern;
};

// The hyper-parameters of every adapter that is placed by name.
constexpr tn_hyper_info target_modules(const char* fallback) {
  return text("target_modules", fallback, "names joined by +, all-linear, or regex:EXPRESSION on whole module paths");
}
inline constexpr tn_hyper_info kExcludeModules =
    text("exclude_modules", "", "names joined by +, or regex:EXPRESSION, that are left out");

// Names joined by +.
void split_names(std::string_view text, std::vector<std::string>& out);

// From the hyper-parameters target_modules and exclude_modules.
Selection selection_from(const Hypers& hypers);

}  // namespace tenon::sdk
