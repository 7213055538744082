// The shape of a Llama-family model: what config.json, GGUF metadata or a preset say, checked.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "hosts/trainer/model/edited_shape.h"

namespace tenon {
class GgufFile;
}

namespace tenon::trainer {

enum class RopeKind { kDefault, kLinear, kDynamic, kLlama3, kYarn };

// How rotary frequencies are stretched beyond the length of pre-training.
struct RopeScaling {
  RopeKind kind = RopeKind::kDefault;
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  double beta_fast = 32, beta_slow = 1, attention_factor = 0;  // YaRN; 0: from the factor
  double mscale = 0, mscale_all_dim = 0;
  bool truncate = true;
  int64_t original_length = 0;
};

struct ModelConfig {
  std::string model_type;    // "llama", "mistral", "qwen2", "qwen3"
  std::string architecture;  // "LlamaForCausalLM"
  int64_t hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0, max_positions = 0;
  double norm_eps = 1e-6, rope_theta = 10000, initializer_range = 0.02;
  RopeScaling rope;
  bool tied = false, qkv_bias = false, o_bias = false, mlp_bias = false, qk_norm = false;
  std::vector<int64_t> window;  // per layer: keys seen including the own one, 0 = all
  int64_t bos = -1;
  std::vector<int64_t> eos;
  // How a folder's linear weights are stored where they are quantized: quant_method ("bitsandbytes") and the whole quantization_config as
  // JSON text. Empty: plain.
  std::string stored_layout, stored_config;
  std::string attention;   // spec of the plugin that the model was trained with, as its file states; empty: exact attention
  std::shared_ptr<const EditedShape> edited;  // null: all blocks are alike
  std::string file_dtype;  // "float32", "bfloat16", … as the file states; may be empty

  int64_t q_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
  // Of the residual stream at a boundary (edited_shape.h), and of the norm there.
  int64_t width(int64_t boundary) const { return edited ? edited->widths[static_cast<size_t>(boundary)] : hidden; }
  double eps(int64_t boundary) const { return edited ? edited->norm_eps[static_cast<size_t>(boundary)] : norm_eps; }
  bool has_map(int64_t sublayer) const { return edited && edited->maps[static_cast<size_t>(sublayer)]; }
  // With the heads and the MLP of one block.
  ModelConfig of_block(int64_t block) const;
  int64_t parameters() const;  // tied weights count once

  // inv_freq[head_dim / 2] and the factor on cos and sin; length: tokens of the longest sequence (only kDynamic looks at it).
  std::vector<float> inverse_frequencies(int64_t length, double& attention_scale) const;
};

// The key of config.json under which ModelConfig::attention stands; other programs skip it.
inline constexpr const char* kAttentionKey = "tenon_attention";

// Reads both spellings of config.json (rope_theta + rope_scaling + torch_dtype; rope_parameters + dtype). Refuses what the trainer does
// not compute (other architectures, activations, partial rotary …) and every impossible number, in one sentence that names `what`.
ModelConfig parse_config(const nlohmann::json& json, const std::string& what);

// From GGUF metadata of the architectures llama, qwen2, qwen3 and mistral.
ModelConfig config_from_gguf(const GgufFile& file, const std::string& what);

// Llama shapes of the GaLore paper (Zhao et al. 2024, appendix): 9m, 20m, 35m, 60m, 130m, 250m, 350m, 1b, 3b, 7b.
ModelConfig preset_config(std::string_view name, int64_t vocab);

// A config.json that transformers reads (older spelling).
nlohmann::json config_to_json(const ModelConfig& config, const std::string& dtype);

}  // namespace tenon::trainer
