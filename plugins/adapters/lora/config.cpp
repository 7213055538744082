#include "config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

namespace tenon::lora {
namespace {

using Json = nlohmann::ordered_json;
using sdk::fail;

constexpr const char* kFile = "adapter_config.json";

[[noreturn]] void refuse(const std::string& sentence) { fail(TN_E_UNSUPPORTED, std::string(kFile) + ": " + sentence); }
[[noreturn]] void damaged(const std::string& sentence) { fail(TN_E_FORMAT, std::string(kFile) + ": " + sentence); }

bool present(const Json& j, const char* key) {
  const auto it = j.find(key);
  return it != j.end() && !it->is_null();
}

bool flag_of(const Json& j, const char* key) {
  if (!present(j, key)) return false;
  if (!j[key].is_boolean()) damaged(std::string(key) + " must be true or false");
  return j[key].get<bool>();
}

double number_of(const Json& j, const char* key, double fallback, double min, double max) {
  if (!present(j, key)) return fallback;
  const double x = j[key].is_number() ? j[key].get<double>() : std::nan("");
  if (!(x >= min && x <= max)) damaged(std::string(key) + " must be a number in [" + std::to_string(min) + ", " + std::to_string(max) + "]");
  return x;
}

void names_of(const Json& j, const char* key, std::vector<std::string>& list, std::optional<std::string>& regex) {
  if (!present(j, key)) return;
  const Json& v = j[key];
  if (v.is_string()) {
    regex = v.get<std::string>();
  } else if (v.is_array()) {
    for (const Json& e : v) {
      if (!e.is_string()) damaged(std::string(key) + " must hold module names");
      list.push_back(e.get<std::string>());
    }
  } else {
    damaged(std::string(key) + " must be a list of module names or a regular expression");
  }
}

// Features of PEFT's LoRA that change the function computed: with any of them set, going on would compute something else.
void refuse_other_methods(const Json& j) {
  for (const char* key : {"use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out"})
    if (flag_of(j, key)) refuse(std::string(key) + " is not plain LoRA and is not computed by this plugin");
  for (const char* key : {"modules_to_save", "target_parameters", "trainable_token_indices", "layer_replication", "corda_config", "eva_config",
                          "arrow_config", "alora_invocation_tokens", "kasa_config", "velora_config", "monteclora_config"})
    if (present(j, key) && !j[key].empty()) refuse(std::string(key) + " is not offered; train the adapter without it");
  if (present(j, "bias") && j["bias"] != "none") refuse("bias other than \"none\" trains biases of the base, which is not offered");
}

Init init_of(const Json& j) {
  if (!present(j, "init_lora_weights")) return Init::kKaiming;
  const Json& v = j["init_lora_weights"];
  if (v.is_boolean()) return v.get<bool>() ? Init::kKaiming : Init::kBothKaiming;
  if (v == "gaussian") return Init::kGaussian;
  refuse("init_lora_weights must be true, false or \"gaussian\"");
}

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

}  // namespace

double Config::scale(int64_t rank, double module_alpha) const {
  return module_alpha / (rslora ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank));
}

Config from_hypers(const sdk::Hypers& h) {
  Config c;
  c.r = h.integer("r"), c.alpha = h.real("lora_alpha"), c.dropout = h.real("lora_dropout"), c.rslora = h.flag("use_rslora");
  c.lora_bias = h.flag("lora_bias");
  const std::string_view init = h.text("init_lora_weights");
  c.init = init == "gaussian" ? Init::kGaussian : init == "false" ? Init::kBothKaiming : Init::kKaiming;
  const std::string_view targets = h.text("target_modules"), excluded = h.text("exclude_modules");
  if (targets == "all-linear")
    c.all_linear = true;
  else if (targets.starts_with("regex:"))
    c.target_regex = std::string(targets.substr(6));
  else
    split_names(targets, c.targets);
  if (excluded.starts_with("regex:"))
    c.excluded_regex = std::string(excluded.substr(6));
  else
    split_names(excluded, c.excluded);
  c.task_type = "CAUSAL_LM";
  return c;
}

Config from_json(const char* text, const tn_host* host) {
  const Json j = Json::parse(text, nullptr, false);
  if (!j.is_object()) damaged("it is not a JSON object");
  if (!present(j, "peft_type")) damaged("peft_type is missing, so this is not a PEFT adapter");
  if (j["peft_type"] != "LORA") refuse("peft_type " + j["peft_type"].dump().substr(0, 60) + " is not LORA; use the adapter plugin of that method");
  refuse_other_methods(j);
  static const std::set<std::string> kKnown{
      "peft_type", "target_modules", "base_model_name_or_path", "revision", "task_type", "inference_mode", "r", "lora_alpha", "lora_dropout", "bias",
      "fan_in_fan_out", "use_rslora", "use_dora", "lora_bias", "init_lora_weights", "modules_to_save", "exclude_modules", "layers_to_transform",
      "layers_pattern", "rank_pattern", "alpha_pattern", "layer_replication", "target_parameters", "trainable_token_indices", "peft_version",
      "auto_mapping", "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "qalora_group_size", "use_qalora",
      "use_bdlora", "alora_invocation_tokens", "arrow_config", "ensure_weight_tying", "kasa_config", "velora_config", "monteclora_config",
      "lora_ga_config", "runtime_config"};
  for (const auto& [key, value] : j.items())
    if (!kKnown.contains(key) && !value.is_null() && !value.empty())
      host->log(host, TN_LOG_WARNING, (std::string(kFile) + ": key \"" + key.substr(0, 60) + "\" is not known and is ignored").c_str());

  Config c;
  c.r = static_cast<int64_t>(number_of(j, "r", 8, 1, 65536));
  c.alpha = number_of(j, "lora_alpha", 8, 1e-9, 1e9);
  c.dropout = number_of(j, "lora_dropout", 0, 0, 0.999999);
  c.rslora = flag_of(j, "use_rslora"), c.lora_bias = flag_of(j, "lora_bias"), c.init = init_of(j);
  if (!present(j, "target_modules")) damaged("target_modules is missing");
  names_of(j, "target_modules", c.targets, c.target_regex);
  if (c.target_regex && *c.target_regex == "all-linear") c.target_regex.reset(), c.all_linear = true;
  names_of(j, "exclude_modules", c.excluded, c.excluded_regex);
  if (present(j, "layers_to_transform")) {
    const Json& v = j["layers_to_transform"];
    for (const Json& e : v.is_array() ? v : Json::array({v})) {
      if (!e.is_number_integer()) damaged("layers_to_transform must hold layer numbers");
      c.layers.push_back(e.get<int64_t>());
    }
  }
  std::optional<std::string> one_pattern;
  names_of(j, "layers_pattern", c.layers_pattern, one_pattern);
  if (one_pattern) c.layers_pattern.push_back(*one_pattern);
  if (!c.layers_pattern.empty() && c.layers.empty()) damaged("layers_pattern needs layers_to_transform");
  if (c.target_regex && !c.layers.empty()) damaged("layers_to_transform cannot go with a regular expression in target_modules; put the layers into the expression");
  if (present(j, "rank_pattern"))
    for (const auto& [key, value] : j["rank_pattern"].items()) {
      if (!value.is_number_integer() || value.get<int64_t>() < 1 || value.get<int64_t>() > 65536) damaged("rank_pattern must map names to ranks from 1");
      c.rank_pattern.emplace_back(key, value.get<int64_t>());
    }
  if (present(j, "alpha_pattern"))
    for (const auto& [key, value] : j["alpha_pattern"].items()) {
      if (!value.is_number() || !(value.get<double>() > 0)) damaged("alpha_pattern must map names to positive numbers");
      c.alpha_pattern.emplace_back(key, value.get<double>());
    }
  if (present(j, "task_type") && j["task_type"].is_string()) c.task_type = j["task_type"].get<std::string>();
  return c;
}

std::string to_json(const Config& c) {
  nlohmann::json j;  // sorted keys, as PEFT writes them
  const auto integral = [](double x) { return x == std::floor(x) && std::abs(x) < 1e15 ? nlohmann::json(static_cast<int64_t>(x)) : nlohmann::json(x); };
  j["peft_type"] = "LORA", j["task_type"] = c.task_type.empty() ? nlohmann::json(nullptr) : nlohmann::json(c.task_type);
  j["base_model_name_or_path"] = nullptr, j["revision"] = nullptr, j["inference_mode"] = true;
  j["r"] = c.r, j["lora_alpha"] = integral(c.alpha), j["lora_dropout"] = c.dropout, j["bias"] = "none", j["fan_in_fan_out"] = false;
  j["use_rslora"] = c.rslora, j["use_dora"] = false, j["lora_bias"] = c.lora_bias;
  j["init_lora_weights"] = c.init == Init::kGaussian ? nlohmann::json("gaussian") : nlohmann::json(c.init == Init::kKaiming);
  j["modules_to_save"] = nullptr;
  if (c.all_linear)
    j["target_modules"] = "all-linear";
  else if (c.target_regex)
    j["target_modules"] = *c.target_regex;
  else
    j["target_modules"] = c.targets;
  if (c.excluded_regex)
    j["exclude_modules"] = *c.excluded_regex;
  else
    j["exclude_modules"] = c.excluded.empty() ? nlohmann::json(nullptr) : nlohmann::json(c.excluded);
  j["layers_to_transform"] = c.layers.empty() ? nlohmann::json(nullptr) : nlohmann::json(c.layers);
  j["layers_pattern"] = c.layers_pattern.empty() ? nlohmann::json(nullptr) : nlohmann::json(c.layers_pattern);
  j["rank_pattern"] = nlohmann::json::object(), j["alpha_pattern"] = nlohmann::json::object();
  for (const auto& [key, value] : c.rank_pattern) j["rank_pattern"][key] = value;
  for (const auto& [key, value] : c.alpha_pattern) j["alpha_pattern"][key] = integral(value);
  return j.dump(2) + "\n";
}

}  // namespace tenon::lora
