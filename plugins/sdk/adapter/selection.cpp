#include "sdk/adapter/selection.h"

namespace tenon::sdk {
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

namespace {

void names_or_regex(std::string_view text, std::vector<std::string>& names, std::optional<std::string>& regex) {
  if (text.starts_with("regex:"))
    regex = std::string(text.substr(6));
  else
    split_names(text, names);
}

}  // namespace

Selection selection_from(const Hypers& hypers) {
  Selection s;
  const std::string_view targets = hypers.text("target_modules");
  s.all_linear = targets == "all-linear";
  if (!s.all_linear) names_or_regex(targets, s.targets, s.target_regex);
  names_or_regex(hypers.text("exclude_modules"), s.excluded, s.excluded_regex);
  return s;
}

}  // namespace tenon::sdk
