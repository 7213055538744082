// A model's shape from GGUF metadata.
#include <cmath>
#include <cstring>
#include <set>

#include "core/error.h"
#include "core/files/gguf.h"
#include "core/files/rope_freqs.h"
#include "hosts/trainer/model/config.h"

namespace tenon::trainer {
namespace {

constexpr int64_t kMaxWidth = 1 << 20, kMaxLayers = 4096, kMaxHeads = 4096, kMaxVocab = 1 << 24;

// GGUF keeps Llama 3's scaling as factors per frequency; config.json wants the rule behind them. Every released Llama 3.x uses one of these.
void recognize_llama3(const GgufFile& file, ModelConfig& c, const std::string& what) {
  const GgufTensor* t = file.find_tensor("rope_freqs.weight");
  if (!t) return;
  if (t->type->name != "F32" || t->bytes != static_cast<uint64_t>(c.head_dim / 2) * 4)
    throw Error(TN_E_FORMAT, what + ": rope_freqs.weight must hold head_dim / 2 = " + std::to_string(c.head_dim / 2) + " f32 factors");
  std::vector<float> factors(c.head_dim / 2);
  std::memcpy(factors.data(), file.data(*t).data(), t->bytes);
  for (const double factor : {8.0, 32.0, 4.0, 16.0}) {
    for (const double context : {8192.0, 4096.0, 2048.0}) {
      Llama3RopeScaling s;
      s.factor = factor, s.original_context = context;
      const std::vector<float> candidate = llama3_rope_factors(static_cast<int>(c.head_dim), c.rope_theta, s);
      bool equal = true;
      for (size_t i = 0; i < factors.size(); ++i) equal = equal && std::abs(candidate[i] - factors[i]) <= 1e-4f * candidate[i];
      if (!equal) continue;
      c.rope.kind = RopeKind::kLlama3, c.rope.factor = factor, c.rope.low_freq_factor = 1, c.rope.high_freq_factor = 4;
      c.rope.original_length = static_cast<int64_t>(context);
      return;
    }
  }
  throw Error(TN_E_UNSUPPORTED, what + ": rope_freqs.weight follows no known Llama 3 scaling; use the model's Hugging Face folder instead");
}

}  // namespace

ModelConfig config_from_gguf(const GgufFile& file, const std::string& what) {
  ModelConfig c;
  const std::string arch(file.get_string("general.architecture"));
  static const std::set<std::string> kKnown{"llama", "mistral", "qwen2", "qwen3"};
  if (!kKnown.contains(arch))
    throw Error(TN_E_UNSUPPORTED, what + ": architecture " + quote_name(arch) + " is not one of llama, mistral, qwen2, qwen3, which are the models that tenon trains");
  const std::string at = arch + ".";
  c.model_type = arch;
  c.architecture = arch == "llama" ? "LlamaForCausalLM" : arch == "mistral" ? "MistralForCausalLM" : arch == "qwen2" ? "Qwen2ForCausalLM" : "Qwen3ForCausalLM";
  if (file.find_int(at + "expert_count", 0, 1 << 20).value_or(0) > 0)
    throw Error(TN_E_UNSUPPORTED, what + " is a mixture-of-experts model, which tenon does not train");
  c.hidden = file.get_int(at + "embedding_length", 1, kMaxWidth);
  c.intermediate = file.get_int(at + "feed_forward_length", 1, kMaxWidth);
  c.layers = file.get_int(at + "block_count", 1, kMaxLayers);
  c.heads = file.get_int(at + "attention.head_count", 1, kMaxHeads);
  c.kv_heads = file.find_int(at + "attention.head_count_kv", 1, kMaxHeads).value_or(c.heads);
  c.head_dim = file.find_int(at + "attention.key_length", 2, 1024).value_or(c.hidden / c.heads);
  c.norm_eps = file.get_double(at + "attention.layer_norm_rms_epsilon", 0, 1);
  c.max_positions = file.get_int(at + "context_length", 1, int64_t{1} << 32);
  c.rope_theta = file.find_double(at + "rope.freq_base", 1e-6, 1e12).value_or(10000);
  if (c.heads % c.kv_heads != 0 || c.head_dim % 2 != 0 || c.head_dim < 2)
    throw Error(TN_E_FORMAT, what + ": " + std::to_string(c.heads) + " heads, " + std::to_string(c.kv_heads) + " key heads and head size " +
                                 std::to_string(c.head_dim) + " do not fit together");
  const auto rotated = file.find_int(at + "rope.dimension_count", 1, 1 << 20);
  if (rotated && *rotated != c.head_dim) throw Error(TN_E_UNSUPPORTED, what + " rotates only part of each head, which is not offered");

  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2) throw Error(TN_E_FORMAT, what + ": token_embd.weight is missing or not a matrix; the model is incomplete");
  c.vocab = embedding->shape[0];
  c.tied = file.find_tensor("output.weight") == nullptr;
  c.qkv_bias = file.find_tensor("blk.0.attn_q.bias") != nullptr;
  c.o_bias = file.find_tensor("blk.0.attn_output.bias") != nullptr;
  c.mlp_bias = file.find_tensor("blk.0.ffn_up.bias") != nullptr;
  c.qk_norm = file.find_tensor("blk.0.attn_q_norm.weight") != nullptr;

  c.rope.original_length = c.max_positions;
  const std::string scaling(file.find_string(at + "rope.scaling.type").value_or("none"));
  if (scaling == "linear") {
    c.rope.kind = RopeKind::kLinear, c.rope.factor = file.get_double(at + "rope.scaling.factor", 1e-6, 1e6);
  } else if (scaling == "yarn") {
    c.rope.kind = RopeKind::kYarn, c.rope.factor = file.get_double(at + "rope.scaling.factor", 1e-6, 1e6);
    c.rope.original_length = file.find_int(at + "rope.scaling.original_context_length", 1, int64_t{1} << 32).value_or(c.max_positions);
  } else if (scaling != "none") {
    throw Error(TN_E_UNSUPPORTED, what + ": RoPE scaling " + quote_name(scaling) + " is not offered");
  }
  recognize_llama3(file, c, what);
  c.window.assign(c.layers, file.find_int(at + "attention.sliding_window", 0, int64_t{1} << 32).value_or(0));
  if (c.model_type == "llama" && c.window[0] > 0) c.model_type = "mistral", c.architecture = "MistralForCausalLM";  // GGUF has one name for both
  c.bos = file.find_int("tokenizer.ggml.bos_token_id", 0, kMaxVocab).value_or(-1);
  if (auto eos = file.find_int("tokenizer.ggml.eos_token_id", 0, kMaxVocab)) c.eos.push_back(*eos);
  return c;
}

}  // namespace tenon::trainer
