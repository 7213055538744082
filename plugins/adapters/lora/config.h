// LoRA's configuration, in PEFT's names: adapter_config.json in, adapter_config.json out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sdk/plugin.h"

namespace tenon::lora {

enum class Init { kKaiming, kGaussian, kBothKaiming };  // true, "gaussian", false

struct Config {
  int64_t r = 8;
  double alpha = 8, dropout = 0;
  bool rslora = false, lora_bias = false;
  Init init = Init::kKaiming;

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
  std::string task_type;

  // Scale of the delta for one module: alpha / r, or alpha / sqrt(r) (Kalajdzievski 2023).
  double scale(int64_t rank, double module_alpha) const;
};

Config from_hypers(const sdk::Hypers& hypers);
// Refuses what cannot be computed here (DoRA, biases of the base, modules_to_save …) by name; unknown keys are told to
// the log.
Config from_json(const char* text, const tn_host* host);
std::string to_json(const Config& config);

}  // namespace tenon::lora
