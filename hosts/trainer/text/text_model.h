// What a model says about text: its tokenizer, its special tokens and its chat template.
#pragma once

#include <limits>
#include <optional>
#include <span>
#include <string>

#include "core/files/gguf.h"
#include "hosts/trainer/text/chat_template.h"
#include "hosts/trainer/text/tokenizer/tokenizer.h"

namespace tenon::trainer {

struct TextModel {
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;
  std::optional<int32_t> bos_id, eos_id, pad_id;
  std::string bos_token, eos_token;  // empty when absent
  std::string path;                  // folder or file that it was read from; empty: the bytes' own
  // Of the model's embedding. Tokenizers may have more ids, such as a [PAD] that was added for batches; text with one is refused.
  int64_t rows = std::numeric_limits<int64_t>::max();

  // Throws one Error where an id has no row, naming its token. `where` names the text.
  void require_rows(std::span<const int32_t> ids, const std::string& where) const;
};

// A Hugging Face folder (tokenizer.json, and when present tokenizer_config.json, chat_template.jinja and config.json)
// or a GGUF file. Throws one Error that names what is missing or damaged.
TextModel load_text_model(const std::string& path);
TextModel load_text_model(const GgufFile& file);

// The chat template of a Hugging Face folder, as it is written there.
std::optional<std::string> chat_template_text(const std::string& folder);

}  // namespace tenon::trainer
