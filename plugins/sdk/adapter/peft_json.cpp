#include "sdk/adapter/peft_json.h"

#include <algorithm>

namespace tenon::sdk::peft {
namespace {

// Keys that PEFT writes whatever the method.
constexpr const char* kCommon[] = {
    "peft_type",     "auto_mapping",   "peft_version",    "base_model_name_or_path", "revision",
    "task_type",     "inference_mode", "target_modules",  "exclude_modules",         "layers_to_transform",
    "layers_pattern", "rank_pattern",  "alpha_pattern",   "modules_to_save",         "runtime_config",
    "ensure_weight_tying"};

void read_layers(const Json& j, Selection& s) {
  const Json* layers = find(j, "layers_to_transform");
  if (layers && layers->is_array())
    for (const Json& e : bounded("layers_to_transform", *layers))
      s.layers.push_back(whole("a layer of layers_to_transform", e, 0, 1 << 20));
  else if (layers)
    s.layers.push_back(whole("layers_to_transform", *layers, 0, 1 << 20));
  std::optional<std::string> one;
  names_of(j, "layers_pattern", s.layers_pattern, one);
  if (one) s.layers_pattern.push_back(*one);
  if (!s.layers_pattern.empty() && !layers)
    damaged("layers_pattern is given without layers_to_transform, which says which layers are meant");
  if ((s.target_regex || s.all_linear) && (layers || !s.layers_pattern.empty()))
    damaged(
        "layers_to_transform goes with a list in target_modules, not with a text; put the layers into the regular "
        "expression");
}

}  // namespace

Json parse(const char* text, const char* type) {
  Json j = Json::parse(text, nullptr, false);
  if (!j.is_object()) damaged("the text is not a JSON object; the file is damaged");
  const Json* found = find(j, "peft_type");
  if (!found) damaged("peft_type is missing, so this is not a PEFT adapter");
  if (*found != type)
    refuse("peft_type is " + shown(*found) + " but this plugin reads \"" + type + "\"; use the plugin of that method");
  return j;
}

void warn_of_unknown_keys(const Json& j, const tn_host* host, const std::vector<std::string>& known) {
  for (const auto& [key, value] : j.items()) {
    const bool common = std::find(std::begin(kCommon), std::end(kCommon), key) != std::end(kCommon);
    if (!common && std::find(known.begin(), known.end(), key) == known.end() && !value.is_null() && !value.empty())
      host->log(host, TN_LOG_WARNING,
                ("adapter_config.json: key " + shown(key) + " is not known and is ignored").c_str());
  }
}

Selection read_selection(const Json& j) {
  Selection s;
  names_of(j, "target_modules", s.targets, s.target_regex);
  if (s.target_regex == "all-linear") s.target_regex.reset(), s.all_linear = true;
  if (!s.target_regex && !s.all_linear && s.targets.empty())
    damaged("target_modules is missing or empty; it must name the modules that are adapted");
  names_of(j, "exclude_modules", s.excluded, s.excluded_regex);
  read_layers(j, s);
  patterns_of<int64_t>(j, "rank_pattern", s.rank_pattern, rank);
  patterns_of<double>(j, "alpha_pattern", s.alpha_pattern, alpha);
  return s;
}

void write_selection(Json& j, const Selection& s) {
  const auto list = [](const auto& names) { return names.empty() ? Json(nullptr) : Json(names); };
  j["alpha_pattern"] = Json::object();
  for (const auto& [name, value] : s.alpha_pattern) j["alpha_pattern"][name] = number(value);
  j["exclude_modules"] = s.excluded_regex ? Json(*s.excluded_regex) : list(s.excluded);
  j["layers_pattern"] = list(s.layers_pattern);
  j["layers_to_transform"] = list(s.layers);
  j["rank_pattern"] = Json::object();
  for (const auto& [name, value] : s.rank_pattern) j["rank_pattern"][name] = value;
  j["target_modules"] = s.all_linear ? Json("all-linear") : s.target_regex ? Json(*s.target_regex) : Json(s.targets);
}

std::string text_of(const Json& j) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : j.items()) keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  Json sorted;
  for (const std::string& key : keys) sorted[key] = j[key];
  return sorted.dump(2) + "\n";
}

}  // namespace tenon::sdk::peft
