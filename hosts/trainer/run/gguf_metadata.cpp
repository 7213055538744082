#include "hosts/trainer/run/gguf_metadata.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/files/model_names.h"
#include "hosts/trainer/text/text_model.h"
#include "hosts/trainer/text/tokenizer/gguf_from_json.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const std::string& what) {
  throw Error(TN_E_UNSUPPORTED, "GGUF has no place for " + what + "; name an --output folder instead of a .gguf file");
}

void put_rope(GgufMetadata& m, const std::string& at, const RopeScaling& r) {
  switch (r.kind) {
    case RopeKind::kDefault:
    case RopeKind::kLlama3:  // is the tensor rope_freqs.weight
      return;
    case RopeKind::kLinear:
      m.set_string(at + "rope.scaling.type", "linear");
      break;
    case RopeKind::kYarn:
      if (r.beta_fast != 32 || r.beta_slow != 1 || r.attention_factor != 0 || r.mscale != 0 || r.mscale_all_dim != 0 || !r.truncate)
        refuse("a YaRN scaling with settings of its own");
      m.set_string(at + "rope.scaling.type", "yarn");
      m.set_u32(at + "rope.scaling.original_context_length", static_cast<uint32_t>(r.original_length));
      break;
    case RopeKind::kDynamic:
      refuse("dynamic RoPE scaling");
  }
  m.set_f32(at + "rope.scaling.factor", static_cast<float>(r.factor));
}

void put_shape(GgufMetadata& m, const ModelConfig& c) {
  const std::string arch(gguf_architecture_from_model_type(c.model_type)), at = arch + ".";
  const auto u32 = [&](const char* key, int64_t value) { m.set_u32(at + key, static_cast<uint32_t>(std::min<int64_t>(value, UINT32_MAX))); };
  m.set_string("general.architecture", arch);
  m.set_string("general.type", "model");
  u32("context_length", c.max_positions);
  u32("embedding_length", c.hidden);
  u32("block_count", c.layers);
  u32("feed_forward_length", c.intermediate);
  u32("attention.head_count", c.heads);
  u32("attention.head_count_kv", c.kv_heads);
  u32("attention.key_length", c.head_dim);
  u32("attention.value_length", c.head_dim);
  m.set_f32(at + "attention.layer_norm_rms_epsilon", static_cast<float>(c.norm_eps));
  m.set_f32(at + "rope.freq_base", static_cast<float>(c.rope_theta));
  u32("rope.dimension_count", c.head_dim);
  u32("vocab_size", c.vocab);
  put_rope(m, at, c.rope);
  if (!c.attention.empty()) refuse("the attention " + c.attention + ", and other programs would run exact attention");
  const int64_t window = c.window.empty() ? 0 : c.window[0];
  if (std::any_of(c.window.begin(), c.window.end(), [&](int64_t w) { return w != window; })) refuse("a sliding window in some layers only");
  if (window > 0) u32("attention.sliding_window", window);
}

}  // namespace

GgufMetadata gguf_metadata_of(const ModelSource& source, std::vector<std::string>& notes) {
  GgufMetadata m;
  if (source.gguf()) {
    for (const GgufEntry& e : source.gguf()->metadata())
      if (e.key != "general.file_type" && e.key != "general.quantization_version" && !e.key.starts_with("split.")) m.copy(e);
    return m;
  }
  put_shape(m, source.config());
  m.set_string("general.name", fs::path(source.path()).lexically_normal().filename().string());
  std::error_code ignored;
  if (!fs::exists(fs::path(source.path()) / "tokenizer.json", ignored)) {
    notes.push_back(source.path() + " has no tokenizer.json, so the file has no tokenizer; pass --tokenizer where it is used");
    return m;
  }
  put_gguf_vocabulary(gguf_vocabulary_of_folder(source.path(), source.config().vocab, notes), m);
  if (const auto text = chat_template_text(source.path())) m.set_string("tokenizer.chat_template", *text);
  return m;
}

}  // namespace tenon::trainer
