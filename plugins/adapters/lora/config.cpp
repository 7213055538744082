#include "config.h"

#include <cmath>

namespace tenon::lora {
namespace {

void split_names(std::string_view text, std::vector<std::string>& out) {
  std::string name;
  for (char c : text) {
    if (c == '+' || c == ',' || c == ' ' || c == '|') {
      if (!name.empty()) out.push_back(std::move(name));
      name.clear();
    } else {
      name += c;
    }
  }
  if (!name.empty()) out.push_back(std::move(name));
}

void names_or_regex(std::string_view text, std::vector<std::string>& names, std::optional<std::string>& regex) {
  if (text.starts_with("regex:"))
    regex = std::string(text.substr(6));
  else
    split_names(text, names);
}

}  // namespace

double Config::scale(int64_t rank, double module_alpha) const {
  return module_alpha / (rslora ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank));
}

Config from_hypers(const sdk::Hypers& h) {
  Config c;
  c.r = h.integer("r"), c.alpha = h.real("lora_alpha"), c.dropout = h.real("lora_dropout");
  c.rslora = h.flag("use_rslora"), c.lora_bias = h.flag("lora_bias");
  const std::string_view init = h.text("init_lora_weights"), targets = h.text("target_modules");
  c.init = init == "gaussian" ? Init::kGaussian : init == "false" ? Init::kBothKaiming : Init::kKaiming;
  c.all_linear = targets == "all-linear";
  if (!c.all_linear) names_or_regex(targets, c.targets, c.target_regex);
  names_or_regex(h.text("exclude_modules"), c.excluded, c.excluded_regex);
  c.task_type = "CAUSAL_LM";
  return c;
}

}  // namespace tenon::lora
