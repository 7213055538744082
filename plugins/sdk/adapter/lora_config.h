// LoRA's configuration, and that of the methods which PEFT stores as LoRA, in PEFT's names: adapter_config.json in and out.
#pragma once

#include "sdk/adapter/selection.h"
#include "sdk/adapter/targets.h"

namespace tenon::sdk {

enum class LoraInit { kKaiming, kGaussian, kBothKaiming };  // true, "gaussian", false

struct LoraConfig {
  int64_t r = 8;
  double alpha = 8, dropout = 0;
  bool rslora = false, lora_bias = false, dora = false;
  LoraInit init = LoraInit::kKaiming;
  Selection selection;
  std::string task_type;
  bool ties = false;  // ensure_weight_tying: one delta for a head and an embedding that are one weight
  std::vector<std::string> modules_to_save;  // of the model's own: trained whole beside the factors, and saved with them

  // Scale of the delta for one module: alpha / r, or alpha / sqrt(r) (Kalajdzievski 2023).
  double scale(int64_t rank, double module_alpha) const;
};

// The schema that LoRA and its descendants share.
inline constexpr tn_hyper_info kLoraRank = integer("r", "8", 1, 65536, nullptr, "rank of the two factors");
inline constexpr tn_hyper_info kLoraAlpha =
    real("lora_alpha", "8", 0, kInfinity, TN_RANGE_OPEN_MIN | TN_RANGE_OPEN_MAX, nullptr,
         "the delta is scaled by lora_alpha / r");
inline constexpr tn_hyper_info kLoraDropout =
    real("lora_dropout", "0", 0, 1, TN_RANGE_OPEN_MAX, nullptr, "share of the adapter's inputs dropped in training");
inline constexpr tn_hyper_info kRsLora = flag("use_rslora", "false", "scale by lora_alpha / sqrt(r)");
inline constexpr tn_hyper_info kLoraTargets = target_modules("q_proj+v_proj");
inline constexpr tn_hyper_info kLoraInit =
    choice("init_lora_weights", "true", "true|gaussian|false",
           "start of A: Kaiming-uniform or N(0, 1/r²), B = 0; false: both random");

inline constexpr tn_hyper_info kModulesToSave =
    text("modules_to_save", "", "modules of the model that train whole and are saved with the adapter: embed_tokens, lm_head, joined by +");

// For plugins with that parameter in their schema.
void read_modules_to_save(const Hypers& hypers, LoraConfig& config);
// Asks the host to train modules_to_save. Refuses a head or embedding that are one weight (tied): PEFT gives each a copy of its own, which
// this model has no room for; and a module that is adapted besides.
void train_modules_to_save(const LoraConfig& config, const Targets& targets, const tn_site* const* sites, uint64_t n, const tn_adapter_sink& sink);

// Of a site that is taken: refuses a delta that the head and the embedding would share.
void refuse_tying(const LoraConfig& config, const tn_site& site);

// From the hyper-parameters above.
LoraConfig lora_config_from(const Hypers& hypers);
// Refuses what cannot be computed here (biases of the base, parameters as targets …) by name; unknown keys are told to the log. dora:
// whether the plugin computes DoRA, which a file with use_dora asks for, or LoRA.
LoraConfig lora_config_from(const char* json, const tn_host* host, bool dora);
std::string to_json(const LoraConfig& config);

}  // namespace tenon::sdk
