#include "sdk/adapter/lora_config.h"

#include "sdk/adapter/peft_json.h"

namespace tenon::sdk {
namespace {

using namespace peft;

// Features of PEFT's LoRA that change the function computed.
void refuse_other_methods(const Json& j, bool dora) {
  for (const char* key : {"use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out"})
    if (flag_of(j, key) && !(dora && std::string_view(key) == "use_dora"))
      refuse(std::string(key) + (dora ? " is not offered with DoRA" : " is not plain LoRA and is not computed by this plugin"));
  if (dora && !flag_of(j, "use_dora")) refuse("use_dora is not true, so this is not a DoRA adapter; use the plugin lora");
  if (dora && flag_of(j, "lora_bias")) refuse("lora_bias is not offered with DoRA; train the adapter without it");
  for (const char* key :
       {"target_parameters", "trainable_token_indices", "layer_replication", "corda_config",
        "eva_config", "arrow_config", "alora_invocation_tokens", "kasa_config", "velora_config", "monteclora_config"})
    if (const Json* v = find(j, key); v && !v->empty() && *v != false)
      refuse(std::string(key) + " is not offered; train the adapter without it");
  if (const Json* v = find(j, "bias"); v && *v != "none")
    refuse("bias is " + shown(*v) + ", which trains biases of the base, but only \"none\" is offered");
}

const std::vector<std::string>& known_keys() {
  static const std::vector<std::string> keys{
      "r",           "lora_alpha",      "lora_dropout",     "bias",           "fan_in_fan_out",
      "use_rslora",  "lora_bias",       "init_lora_weights", "layer_replication", "target_parameters",
      "use_dora",    "use_qalora",      "qalora_group_size", "use_bdlora",    "trainable_token_indices",
      "eva_config",  "corda_config",    "lora_ga_config",   "arrow_config",   "alora_invocation_tokens",
      "kasa_config", "velora_config",   "monteclora_config", "megatron_config", "megatron_core",
      "loftq_config"};
  return keys;
}

// The role of a module that can be trained whole.
uint32_t saved_role(const std::string& name) {
  if (name == "lm_head") return TN_ROLE_HEAD;
  if (name == "embed_tokens" || name == "model.embed_tokens") return TN_ROLE_EMBEDDING;
  fail(TN_E_UNSUPPORTED, "modules_to_save names " + shown(Json(name)) + ", but only embed_tokens and lm_head are offered; adapt it through target_modules");
}

LoraInit init_of(const Json& j) {
  const Json* v = find(j, "init_lora_weights");
  if (!v || *v == true) return LoraInit::kKaiming;
  if (*v == false) return LoraInit::kBothKaiming;
  if (*v == "gaussian") return LoraInit::kGaussian;
  refuse("init_lora_weights is " + shown(*v) + " but only true, false and \"gaussian\" are offered");
}

}  // namespace

void read_modules_to_save(const Hypers& h, LoraConfig& c) {
  split_names(h.text("modules_to_save"), c.modules_to_save);
  for (const std::string& name : c.modules_to_save) saved_role(name);
}

void train_modules_to_save(const LoraConfig& config, const Targets& targets, const tn_site* const* sites, uint64_t n, const tn_adapter_sink& sink) {
  if (config.modules_to_save.empty()) return;
  if (!TN_HAS(&sink, tn_adapter_sink, train) || !sink.train) fail(TN_E_UNSUPPORTED, "modules_to_save trains weights of the model, which this host does not offer");
  for (const std::string& name : config.modules_to_save) {
    const uint32_t role = saved_role(name);
    for (uint64_t i = 0; i < n; ++i) {
      if (sites[i]->place == TN_PLACE_LOOKUP && role == TN_ROLE_EMBEDDING && targets.takes(*sites[i]))
        fail(TN_E_CONFLICT, "modules_to_save and target_modules both name " + name + "; train it whole or adapt it");
      if (sites[i]->role != TN_ROLE_HEAD) continue;
      if (sites[i]->flags & TN_LINEAR_TIED)
        fail(TN_E_UNSUPPORTED, "modules_to_save names " + name + ", but head and embedding are one weight in this model; leave it out");
      if (role == TN_ROLE_HEAD && targets.takes(*sites[i]))
        fail(TN_E_CONFLICT, "modules_to_save and target_modules both name " + name + "; train it whole or adapt it");
    }
    check(sink.train(sink.self, role));
  }
}

void refuse_tying(const LoraConfig& config, const tn_site& site) {
  if (config.ties && (site.flags & TN_LINEAR_TIED))
    fail(TN_E_UNSUPPORTED, std::string("ensure_weight_tying asks for one delta of head and embedding, and ") + site.path +
                               " has its own here; train the adapter without it");
}

double LoraConfig::scale(int64_t rank, double module_alpha) const {
  return module_alpha / (rslora ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank));
}

LoraConfig lora_config_from(const Hypers& h) {
  LoraConfig c;
  c.r = h.integer("r"), c.alpha = h.real("lora_alpha"), c.dropout = h.real("lora_dropout");
  c.rslora = h.flag("use_rslora");
  const std::string_view init = h.text("init_lora_weights");
  c.init = init == "gaussian" ? LoraInit::kGaussian : init == "false" ? LoraInit::kBothKaiming : LoraInit::kKaiming;
  c.selection = selection_from(h);
  c.task_type = "CAUSAL_LM";
  return c;
}

LoraConfig lora_config_from(const char* json, const tn_host* host, bool dora) {
  const Json j = parse(json, "LORA");
  refuse_other_methods(j, dora);
  warn_of_unknown_keys(j, host, known_keys());
  LoraConfig c;
  c.dora = dora;
  if (const Json* v = find(j, "r")) c.r = rank("r", *v);
  if (const Json* v = find(j, "lora_alpha")) c.alpha = alpha("lora_alpha", *v);
  if (const Json* v = find(j, "lora_dropout")) {
    c.dropout = v->is_number() ? v->get<double>() : -1;
    if (!(c.dropout >= 0 && c.dropout < 1)) wrong("lora_dropout", *v, "a number from 0 to below 1");
  }
  c.rslora = flag_of(j, "use_rslora"), c.lora_bias = flag_of(j, "lora_bias"), c.init = init_of(j);
  c.selection = read_selection(j), c.ties = flag_of(j, "ensure_weight_tying");
  std::optional<std::string> one;
  names_of(j, "modules_to_save", c.modules_to_save, one);
  if (one) wrong("modules_to_save", *find(j, "modules_to_save"), "a list of names");
  for (const std::string& name : c.modules_to_save) saved_role(name);
  if (const Json* v = find(j, "task_type"); v && v->is_string()) c.task_type = v->get<std::string>();
  return c;
}

std::string to_json(const LoraConfig& c) {
  Json j;  // patterns keep their order, which counts
  write_selection(j, c.selection);
  j["base_model_name_or_path"] = nullptr;
  j["bias"] = "none";
  j["fan_in_fan_out"] = false;
  j["inference_mode"] = true;
  j["init_lora_weights"] = c.init == LoraInit::kGaussian ? Json("gaussian") : Json(c.init == LoraInit::kKaiming);
  j["lora_alpha"] = number(c.alpha);
  j["lora_bias"] = c.lora_bias;
  j["lora_dropout"] = c.dropout;
  j["modules_to_save"] = c.modules_to_save.empty() ? Json(nullptr) : Json(c.modules_to_save);
  j["peft_type"] = "LORA";
  j["r"] = c.r;
  j["revision"] = nullptr;
  j["task_type"] = c.task_type.empty() ? Json(nullptr) : Json(c.task_type);
  j["use_dora"] = c.dora;
  j["use_rslora"] = c.rslora;
  return text_of(j);
}

}  // namespace tenon::sdk
