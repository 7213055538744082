// adapter_config.json as PEFT writes it. The text comes from anywhere: every value is checked, and what would compute
// another function than plain LoRA is refused by name.
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "config.h"

namespace tenon::lora {
namespace {

using Json = nlohmann::ordered_json;  // patterns are tried in file order
using sdk::fail;

constexpr size_t kMostEntries = 16384;

[[noreturn]] void refuse(const std::string& sentence) {
  fail(TN_E_UNSUPPORTED, "adapter_config.json: " + sentence);
}
[[noreturn]] void damaged(const std::string& sentence) {
  fail(TN_E_FORMAT, "adapter_config.json: " + sentence);
}

// A value for a message: ASCII, and short.
std::string shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', true);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

[[noreturn]] void wrong(const std::string& key, const Json& value, const std::string& wanted) {
  damaged(key + " is " + shown(value) + " but must be " + wanted);
}

const Json* find(const Json& j, const char* key) {
  const auto it = j.find(key);
  return it == j.end() || it->is_null() ? nullptr : &*it;
}

bool flag_of(const Json& j, const char* key) {
  const Json* v = find(j, key);
  if (!v) return false;
  if (!v->is_boolean()) wrong(key, *v, "true or false");
  return v->get<bool>();
}

int64_t whole(const std::string& key, const Json& v, int64_t min, int64_t max) {
  const double x = v.is_number() ? v.get<double>() : std::nan("");
  if (!(x >= static_cast<double>(min) && x <= static_cast<double>(max)) || x != std::floor(x))
    wrong(key, v, "a whole number from " + std::to_string(min) + " to " + std::to_string(max));
  return static_cast<int64_t>(x);
}

int64_t rank(const std::string& key, const Json& v) {
  return whole(key, v, 1, 65536);
}

double alpha(const std::string& key, const Json& v) {
  const double x = v.is_number() ? v.get<double>() : std::nan("");
  if (!(x > 0 && x <= 1e9)) wrong(key, v, "a positive number of at most 1e9");
  return x;
}

const Json& bounded(const char* key, const Json& list) {
  if (list.size() > kMostEntries)
    damaged(std::string(key) + " has " + std::to_string(list.size()) + " entries but at most " +
            std::to_string(kMostEntries) + " are read");
  return list;
}

// A list of names, or one text (a regular expression).
void names_of(const Json& j, const char* key, std::vector<std::string>& list, std::optional<std::string>& text) {
  const Json* v = find(j, key);
  if (!v) return;
  if (v->is_string()) {
    if (const auto& s = v->get_ref<const std::string&>(); !s.empty()) text = s;
    return;
  }
  if (!v->is_array()) wrong(key, *v, "a list of names or one text");
  for (const Json& e : bounded(key, *v)) {
    if (!e.is_string()) wrong(std::string("an entry of ") + key, e, "a name");
    list.push_back(e.get<std::string>());
  }
}

template <class T>
void patterns_of(const Json& j, const char* key, std::vector<std::pair<std::string, T>>& out,
                 T (*read)(const std::string&, const Json&)) {
  const Json* v = find(j, key);
  if (!v) return;
  if (!v->is_object()) wrong(key, *v, "an object of module names and values");
  for (const auto& [name, value] : bounded(key, *v).items())
    out.emplace_back(name, read(std::string(key) + "[" + shown(name) + "]", value));
}

// Features of PEFT's LoRA that change the function computed.
void refuse_other_methods(const Json& j) {
  for (const char* key : {"use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out"})
    if (flag_of(j, key)) refuse(std::string(key) + " is not plain LoRA and is not computed by this plugin");
  for (const char* key :
       {"modules_to_save", "target_parameters", "trainable_token_indices", "layer_replication", "corda_config",
        "eva_config", "arrow_config", "alora_invocation_tokens", "kasa_config", "velora_config", "monteclora_config"})
    if (const Json* v = find(j, key); v && !v->empty() && *v != false)
      refuse(std::string(key) + " is not offered; train the adapter without it");
  if (const Json* v = find(j, "bias"); v && *v != "none")
    refuse("bias is " + shown(*v) + ", which trains biases of the base, but only \"none\" is offered");
}

void warn_of_unknown_keys(const Json& j, const tn_host* host) {
  static const std::set<std::string> known{"peft_type",
                                           "auto_mapping",
                                           "peft_version",
                                           "base_model_name_or_path",
                                           "revision",
                                           "task_type",
                                           "inference_mode",
                                           "r",
                                           "lora_alpha",
                                           "lora_dropout",
                                           "bias",
                                           "fan_in_fan_out",
                                           "use_rslora",
                                           "lora_bias",
                                           "init_lora_weights",
                                           "target_modules",
                                           "exclude_modules",
                                           "layers_to_transform",
                                           "layers_pattern",
                                           "rank_pattern",
                                           "alpha_pattern",
                                           "modules_to_save",
                                           "layer_replication",
                                           "target_parameters",
                                           "trainable_token_indices",
                                           "ensure_weight_tying",
                                           "use_dora",
                                           "use_qalora",
                                           "qalora_group_size",
                                           "use_bdlora",
                                           "alora_invocation_tokens",
                                           "loftq_config",
                                           "eva_config",
                                           "corda_config",
                                           "lora_ga_config",
                                           "arrow_config",
                                           "kasa_config",
                                           "velora_config",
                                           "monteclora_config",
                                           "megatron_config",
                                           "megatron_core",
                                           "runtime_config"};
  for (const auto& [key, value] : j.items())
    if (!known.contains(key) && !value.is_null() && !value.empty())
      host->log(host, TN_LOG_WARNING,
                ("adapter_config.json: key " + shown(key) + " is not known and is ignored").c_str());
}

Init init_of(const Json& j) {
  const Json* v = find(j, "init_lora_weights");
  if (!v || *v == true) return Init::kKaiming;
  if (*v == false) return Init::kBothKaiming;
  if (*v == "gaussian") return Init::kGaussian;
  refuse("init_lora_weights is " + shown(*v) + " but only true, false and \"gaussian\" are offered");
}

void read_layers(const Json& j, Config& c) {
  const Json* layers = find(j, "layers_to_transform");
  if (layers && layers->is_array())
    for (const Json& e : bounded("layers_to_transform", *layers))
      c.layers.push_back(whole("a layer of layers_to_transform", e, 0, 1 << 20));
  else if (layers)
    c.layers.push_back(whole("layers_to_transform", *layers, 0, 1 << 20));
  std::optional<std::string> one;
  names_of(j, "layers_pattern", c.layers_pattern, one);
  if (one) c.layers_pattern.push_back(*one);
  if (!c.layers_pattern.empty() && !layers)
    damaged("layers_pattern is given without layers_to_transform, which says which layers are meant");
  if ((c.target_regex || c.all_linear) && (layers || !c.layers_pattern.empty()))
    damaged(
        "layers_to_transform goes with a list in target_modules, not with a text; put the layers into the regular "
        "expression");
}

}  // namespace

Config from_json(const char* text, const tn_host* host) {
  const Json j = Json::parse(text, nullptr, false);
  if (!j.is_object()) damaged("the text is not a JSON object; the file is damaged");
  const Json* type = find(j, "peft_type");
  if (!type) damaged("peft_type is missing, so this is not a PEFT adapter");
  if (*type != "LORA")
    refuse("peft_type is " + shown(*type) + " but this plugin reads \"LORA\"; use the plugin of that method");
  refuse_other_methods(j);
  warn_of_unknown_keys(j, host);

  Config c;
  if (const Json* v = find(j, "r")) c.r = rank("r", *v);
  if (const Json* v = find(j, "lora_alpha")) c.alpha = alpha("lora_alpha", *v);
  if (const Json* v = find(j, "lora_dropout")) {
    c.dropout = v->is_number() ? v->get<double>() : -1;
    if (!(c.dropout >= 0 && c.dropout < 1)) wrong("lora_dropout", *v, "a number from 0 to below 1");
  }
  c.rslora = flag_of(j, "use_rslora"), c.lora_bias = flag_of(j, "lora_bias"), c.init = init_of(j);
  names_of(j, "target_modules", c.targets, c.target_regex);
  if (c.target_regex == "all-linear") c.target_regex.reset(), c.all_linear = true;
  if (!c.target_regex && !c.all_linear && c.targets.empty())
    damaged("target_modules is missing or empty; it must name the modules that have factors");
  names_of(j, "exclude_modules", c.excluded, c.excluded_regex);
  read_layers(j, c);
  patterns_of<int64_t>(j, "rank_pattern", c.rank_pattern, rank);
  patterns_of<double>(j, "alpha_pattern", c.alpha_pattern, alpha);
  if (const Json* v = find(j, "task_type"); v && v->is_string()) c.task_type = v->get<std::string>();
  return c;
}

std::string to_json(const Config& c) {
  Json j;  // keys sorted, as PEFT writes them, but the patterns in their order, which counts
  const auto number = [](double x) {
    return x == std::floor(x) && std::abs(x) < 1e15 ? Json(static_cast<int64_t>(x)) : Json(x);
  };
  const auto list = [](const auto& names) { return names.empty() ? Json(nullptr) : Json(names); };
  j["alpha_pattern"] = Json::object();
  for (const auto& [name, value] : c.alpha_pattern) j["alpha_pattern"][name] = number(value);
  j["base_model_name_or_path"] = nullptr;
  j["bias"] = "none";
  j["exclude_modules"] = c.excluded_regex ? Json(*c.excluded_regex) : list(c.excluded);
  j["fan_in_fan_out"] = false;
  j["inference_mode"] = true;
  j["init_lora_weights"] = c.init == Init::kGaussian ? Json("gaussian") : Json(c.init == Init::kKaiming);
  j["layers_pattern"] = list(c.layers_pattern);
  j["layers_to_transform"] = list(c.layers);
  j["lora_alpha"] = number(c.alpha);
  j["lora_bias"] = c.lora_bias;
  j["lora_dropout"] = c.dropout;
  j["modules_to_save"] = nullptr;
  j["peft_type"] = "LORA";
  j["r"] = c.r;
  j["rank_pattern"] = Json::object();
  for (const auto& [name, value] : c.rank_pattern) j["rank_pattern"][name] = value;
  j["revision"] = nullptr;
  j["target_modules"] = c.all_linear ? Json("all-linear") : c.target_regex ? Json(*c.target_regex) : Json(c.targets);
  j["task_type"] = c.task_type.empty() ? Json(nullptr) : Json(c.task_type);
  j["use_dora"] = false;
  j["use_rslora"] = c.rslora;
  return j.dump(2) + "\n";
}

}  // namespace tenon::lora
