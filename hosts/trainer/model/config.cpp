#include "hosts/trainer/model/config.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"

namespace tenon::trainer {
namespace {

constexpr int64_t kMaxWidth = 1 << 20, kMaxLayers = 4096, kMaxHeads = 4096, kMaxVocab = 1 << 24, kMaxLength = int64_t{1} << 32;

[[noreturn]] void refuse(const std::string& what, const std::string& sentence) { throw Error(TN_E_FORMAT, what + ": " + sentence); }

std::string text_of(const Json& j, const char* key, const std::string& what, const char* fallback) {
  return find_string(j, key, what).value_or(fallback);
}

RopeScaling parse_rope(const Json& r, const std::string& what) {
  RopeScaling s;
  const std::string kind = find_string(r, "rope_type", what).value_or(text_of(r, "type", what, "default"));
  s.factor = find_double(r, "factor", 1e-6, 1e6, what).value_or(1);
  s.original_length = find_int(r, "original_max_position_embeddings", 1, kMaxLength, what).value_or(0);
  if (kind == "default") {
    s.kind = RopeKind::kDefault;
  } else if (kind == "linear") {
    s.kind = RopeKind::kLinear;
  } else if (kind == "dynamic") {
    s.kind = RopeKind::kDynamic;
  } else if (kind == "llama3") {
    s.kind = RopeKind::kLlama3;
    s.low_freq_factor = get_double(r, "low_freq_factor", 1e-6, 1e6, what);
    s.high_freq_factor = get_double(r, "high_freq_factor", 1e-6, 1e6, what);
    if (s.high_freq_factor <= s.low_freq_factor) refuse(what, "high_freq_factor must exceed low_freq_factor in its RoPE scaling");
  } else if (kind == "yarn") {
    s.kind = RopeKind::kYarn;
    s.beta_fast = find_double(r, "beta_fast", 1e-6, 1e6, what).value_or(32);
    s.beta_slow = find_double(r, "beta_slow", 1e-6, 1e6, what).value_or(1);
    s.attention_factor = find_double(r, "attention_factor", 0, 1e6, what).value_or(0);
    s.mscale = find_double(r, "mscale", 0, 1e6, what).value_or(0);
    s.mscale_all_dim = find_double(r, "mscale_all_dim", 0, 1e6, what).value_or(0);
    s.truncate = find_bool(r, "truncate", what).value_or(true);
  } else {
    refuse(what, "RoPE scaling \"" + kind + "\" is not one of default, linear, dynamic, llama3, yarn");
  }
  return s;
}

void check_shape(ModelConfig& c, const std::string& what) {
  if (c.heads % c.kv_heads != 0)
    refuse(what, "num_attention_heads " + std::to_string(c.heads) + " is not a multiple of num_key_value_heads " + std::to_string(c.kv_heads));
  if (c.head_dim % 2 != 0) refuse(what, "head_dim " + std::to_string(c.head_dim) + " is odd; rotary embedding needs an even one");
  if (c.window.empty()) c.window.assign(c.layers, 0);
}

struct Preset {
  std::string_view name;
  int64_t hidden, intermediate, layers, heads;
};
constexpr std::array<Preset, 10> kPresets{{{"9m", 128, 352, 4, 4},
                                           {"20m", 256, 688, 4, 4},
                                           {"35m", 384, 1024, 6, 8},
                                           {"60m", 512, 1376, 8, 8},
                                           {"130m", 768, 2048, 12, 12},
                                           {"250m", 768, 2560, 24, 16},
                                           {"350m", 1024, 2736, 24, 16},
                                           {"1b", 2048, 5461, 24, 32},
                                           {"3b", 2560, 6848, 32, 32},
                                           {"7b", 4096, 11008, 32, 32}}};

}  // namespace

int64_t ModelConfig::parameters() const {
  int64_t sum = width(2 * layers) + vocab * (tied ? width(0) : width(0) + width(2 * layers));
  for (int64_t l = 0; l < layers; ++l) {
    const ModelConfig c = of_block(l);
    const int64_t q = c.q_width(), kv = c.kv_width(), in = width(2 * l), middle = width(2 * l + 1), out = width(2 * l + 2);
    sum += in * (q + 2 * kv) + q * middle + (2 * middle + out) * c.intermediate + in + middle;
    if (has_map(2 * l)) sum += in * middle;
    if (has_map(2 * l + 1)) sum += middle * out;
    if (qkv_bias) sum += q + 2 * kv;
    if (o_bias) sum += middle;
    if (mlp_bias) sum += 2 * c.intermediate + out;
    if (qk_norm) sum += 2 * head_dim;
  }
  return sum;
}

ModelConfig ModelConfig::of_block(int64_t block) const {
  ModelConfig c = *this;
  const auto l = static_cast<size_t>(block);
  if (edited) c.heads = edited->heads[l], c.kv_heads = edited->kv_heads[l], c.intermediate = edited->intermediate[l];
  return c;
}

ModelConfig parse_config(const nlohmann::json& j, const std::string& what) {
  if (!j.is_object()) refuse(what, "a model configuration must be a JSON object");
  ModelConfig c;
  c.model_type = get_string(j, "model_type", what);
  static constexpr std::array<std::array<const char*, 2>, 4> kKnown{{{"llama", "LlamaForCausalLM"},
                                                                      {"mistral", "MistralForCausalLM"},
                                                                      {"qwen2", "Qwen2ForCausalLM"},
                                                                      {"qwen3", "Qwen3ForCausalLM"}}};
  for (const auto& k : kKnown)
    if (c.model_type == k[0]) c.architecture = k[1];
  if (c.architecture.empty())
    refuse(what, "model_type \"" + c.model_type + "\" is not one of llama, mistral, qwen2, qwen3, which are the models that tenon trains");
  if (const Json* a = find_array(j, "architectures", what); a && !a->empty()) {
    if (!(*a)[0].is_string() || (*a)[0].get<std::string>() != c.architecture)
      refuse(what, "architecture " + (*a)[0].dump().substr(0, 80) + " is not \"" + c.architecture + "\", the one that tenon computes for " + c.model_type);
  }
  if (const Json* q = find_object(j, "quantization_config", what))
    c.stored_layout = get_string(*q, "quant_method", what), c.stored_config = q->dump();

  c.hidden = get_int(j, "hidden_size", 1, kMaxWidth, what);
  c.intermediate = get_int(j, "intermediate_size", 1, kMaxWidth, what);
  c.layers = get_int(j, "num_hidden_layers", 1, kMaxLayers, what);
  c.heads = get_int(j, "num_attention_heads", 1, kMaxHeads, what);
  c.kv_heads = find_int(j, "num_key_value_heads", 1, kMaxHeads, what).value_or(c.heads);
  if (auto d = find_int(j, "head_dim", 1, 1024, what)) {
    c.head_dim = *d;
  } else {
    if (c.hidden % c.heads != 0)
      refuse(what, "hidden_size " + std::to_string(c.hidden) + " is not a multiple of num_attention_heads " + std::to_string(c.heads));
    c.head_dim = c.hidden / c.heads;
  }
  c.vocab = get_int(j, "vocab_size", 1, kMaxVocab, what);
  c.max_positions = find_int(j, "max_position_embeddings", 1, kMaxLength, what).value_or(2048);
  c.norm_eps = find_double(j, "rms_norm_eps", 0, 1, what).value_or(1e-6);
  c.initializer_range = find_double(j, "initializer_range", 0, 10, what).value_or(0.02);
  c.tied = find_bool(j, "tie_word_embeddings", what).value_or(false);
  if (const std::string act = text_of(j, "hidden_act", what, "silu"); act != "silu")
    refuse(what, "hidden_act \"" + act + "\" is not silu, the activation that tenon computes");
  if (find_double(j, "partial_rotary_factor", 0, 1, what).value_or(1) != 1) refuse(what, "partial_rotary_factor other than 1 is not offered");
  const bool attention_bias = find_bool(j, "attention_bias", what).value_or(false);
  c.qkv_bias = c.model_type == "qwen2" || attention_bias;
  c.o_bias = c.model_type != "qwen2" && attention_bias;
  c.mlp_bias = find_bool(j, "mlp_bias", what).value_or(false);
  c.qk_norm = c.model_type == "qwen3";

  c.rope_theta = find_double(j, "rope_theta", 1e-6, 1e12, what).value_or(10000);
  const Json* rope = find_object(j, "rope_parameters", what);
  if (!rope) rope = find_object(j, "rope_scaling", what);
  if (rope) {
    c.rope = parse_rope(*rope, what);
    c.rope_theta = find_double(*rope, "rope_theta", 1e-6, 1e12, what).value_or(c.rope_theta);
    if (find_double(*rope, "partial_rotary_factor", 0, 1, what).value_or(1) != 1) refuse(what, "partial_rotary_factor other than 1 is not offered");
  }
  if (c.rope.original_length == 0) c.rope.original_length = c.max_positions;

  const int64_t window = find_int(j, "sliding_window", 1, kMaxLength, what).value_or(0);
  const bool use_window = c.model_type == "mistral" || find_bool(j, "use_sliding_window", what).value_or(false);
  c.window.assign(c.layers, 0);
  if (const Json* types = find_array(j, "layer_types", what)) {
    if (static_cast<int64_t>(types->size()) != c.layers) refuse(what, "layer_types has " + std::to_string(types->size()) + " entries for " + std::to_string(c.layers) + " layers");
    for (int64_t l = 0; l < c.layers; ++l)
      if ((*types)[l] == "sliding_attention") c.window[l] = window;
  } else if (window > 0 && use_window) {
    const int64_t full = c.model_type == "mistral" ? 0 : find_int(j, "max_window_layers", 0, kMaxLayers, what).value_or(c.layers);
    for (int64_t l = full; l < c.layers; ++l) c.window[l] = window;
  }

  c.bos = find_int(j, "bos_token_id", 0, kMaxVocab, what).value_or(-1);
  if (auto it = j.find("eos_token_id"); it != j.end() && it->is_array()) {
    for (const Json& e : *it)
      if (e.is_number_integer()) c.eos.push_back(e.get<int64_t>());
  } else if (auto e = find_int(j, "eos_token_id", 0, kMaxVocab, what)) {
    c.eos.push_back(*e);
  }
  c.attention = find_string(j, kAttentionKey, what).value_or("");
  if (const Json* edits = find_object(j, kEditsKey, what)) c.edited = std::make_shared<EditedShape>(parse_edited_shape(*edits, c, what));
  c.file_dtype = find_string(j, "dtype", what).value_or(text_of(j, "torch_dtype", what, ""));
  check_shape(c, what);
  return c;
}

ModelConfig preset_config(std::string_view name, int64_t vocab) {
  for (const Preset& p : kPresets) {
    if (p.name != name) continue;
    ModelConfig c;
    c.model_type = "llama", c.architecture = "LlamaForCausalLM";
    c.hidden = p.hidden, c.intermediate = p.intermediate, c.layers = p.layers, c.heads = c.kv_heads = p.heads;
    c.head_dim = p.hidden / p.heads, c.vocab = vocab, c.max_positions = 2048;
    c.rope.original_length = c.max_positions;
    check_shape(c, std::string("preset ") + std::string(name));
    return c;
  }
  std::string names;
  for (const Preset& p : kPresets) names += (names.empty() ? "" : ", ") + std::string(p.name);
  throw Error(TN_E_NOT_FOUND, "preset:" + std::string(name) + " is not a preset; the presets are " + names);
}

nlohmann::json config_to_json(const ModelConfig& c, const std::string& dtype) {
  Json j{{"architectures", {c.architecture}},
         {"model_type", c.model_type},
         {"hidden_size", c.hidden},
         {"intermediate_size", c.intermediate},
         {"num_hidden_layers", c.layers},
         {"num_attention_heads", c.heads},
         {"num_key_value_heads", c.kv_heads},
         {"head_dim", c.head_dim},
         {"vocab_size", c.vocab},
         {"max_position_embeddings", c.max_positions},
         {"rms_norm_eps", c.norm_eps},
         {"rope_theta", c.rope_theta},
         {"hidden_act", "silu"},
         {"initializer_range", c.initializer_range},
         {"tie_word_embeddings", c.tied},
         {"torch_dtype", dtype},
         {"use_cache", true}};
  if (c.model_type == "llama") j["attention_bias"] = c.qkv_bias, j["mlp_bias"] = c.mlp_bias;
  if (c.model_type == "qwen3") j["attention_bias"] = c.qkv_bias;
  if (c.bos >= 0) j["bos_token_id"] = c.bos;
  if (!c.attention.empty()) j[kAttentionKey] = c.attention;
  if (c.edited) j[kEditsKey] = shape_to_json(*c.edited);
  if (c.eos.size() == 1) j["eos_token_id"] = c.eos[0];
  if (c.eos.size() > 1) j["eos_token_id"] = c.eos;
  const RopeScaling& r = c.rope;
  switch (r.kind) {
    case RopeKind::kDefault: break;
    case RopeKind::kLinear: j["rope_scaling"] = {{"rope_type", "linear"}, {"factor", r.factor}}; break;
    case RopeKind::kDynamic: j["rope_scaling"] = {{"rope_type", "dynamic"}, {"factor", r.factor}}; break;
    case RopeKind::kLlama3:
      j["rope_scaling"] = {{"rope_type", "llama3"},
                           {"factor", r.factor},
                           {"low_freq_factor", r.low_freq_factor},
                           {"high_freq_factor", r.high_freq_factor},
                           {"original_max_position_embeddings", r.original_length}};
      break;
    case RopeKind::kYarn:
      j["rope_scaling"] = {{"rope_type", "yarn"},
                           {"factor", r.factor},
                           {"beta_fast", r.beta_fast},
                           {"beta_slow", r.beta_slow},
                           {"original_max_position_embeddings", r.original_length}};
      if (r.attention_factor > 0) j["rope_scaling"]["attention_factor"] = r.attention_factor;
      break;
  }
  const bool any_window = std::any_of(c.window.begin(), c.window.end(), [](int64_t w) { return w > 0; });
  if (c.model_type == "mistral") j["sliding_window"] = any_window ? Json(c.window[0]) : Json(nullptr);
  if (c.model_type == "qwen2" || c.model_type == "qwen3") {
    j["use_sliding_window"] = any_window;
    if (any_window) {
      int64_t full = 0;
      while (full < c.layers && c.window[full] == 0) ++full;
      j["sliding_window"] = c.window[full], j["max_window_layers"] = full;
    }
  }
  return j;
}

}  // namespace tenon::trainer
