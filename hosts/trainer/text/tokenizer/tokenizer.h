// A tokenizer that agrees, token for token, with Hugging Face `tokenizers` on the same tokenizer.json.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::trainer {

// The vocabulary of a GGUF file, under the names of its tokenizer.ggml.* keys. Empty and -1 mean absent.
struct GgufVocabulary {
  std::string model;  // "gpt2" (byte-level BPE) or "llama" (sentencepiece BPE)
  std::string pre;    // the pre-tokenizer of "gpt2": "smollm", "llama-bpe", "qwen2" …
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> token_types;  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
  std::vector<std::string> merges;   // "left right"
  int64_t bos_id = -1, eos_id = -1, unk_id = -1, pad_id = -1;
  std::optional<bool> add_space_prefix, add_bos, add_eos;
};

class Tokenizer {
 public:
  // `where` names the file in errors. Both throw Error: TN_E_FORMAT for damage, TN_E_UNSUPPORTED for a part that is not
  // known.
  static Tokenizer from_json(std::string_view bytes, const std::string& where);
  static Tokenizer from_gguf(GgufVocabulary vocabulary, const std::string& where);

  // Special tokens written in the text are recognised; `add_special` adds those of the post-processor (such as <s>)
  // besides. Throws Error (TN_E_FORMAT, naming the byte) for text that is not UTF-8. [any-thread]
  std::vector<int32_t> encode(std::string_view text, bool add_special = false) const;
  // The same without added specials, appended. Text is worked off in parts wherever that provably changes no token, so
  // that the memory beyond `out` does not grow with it. [any-thread]
  void encode_append(std::string_view text, std::vector<int32_t>& out) const;

  // Ids that name no token are left out. Bytes that are not UTF-8 become U+FFFD. [any-thread]
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  size_t vocabulary_size() const;  // the largest id + 1
  std::optional<int32_t> id_of(std::string_view token) const;
  std::string_view token_of(int32_t id) const;  // empty when absent
  bool is_special(int32_t id) const;
  // What GGUF metadata names; tokenizer.json names none (tokenizer_config.json does).
  std::optional<int32_t> bos_id() const, eos_id() const, pad_id() const;

 private:
  struct Parts;
  friend struct TokenizerBuilder;
  explicit Tokenizer(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}
  std::shared_ptr<const Parts> parts_;
};

// Text from ids that arrive one by one: a character is given out once all its bytes are there.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer, bool skip_special = false)
      : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}
  // The text that `id` completes, often empty. The texts of all calls and of finish() together equal decode() of all
  // ids.
  std::string push(int32_t id);
  std::string finish();

 private:
  std::string advance(bool last);

  Tokenizer tokenizer_;
  bool skip_special_;
  std::vector<int32_t> ids_;  // a window: ids whose text is out, for context, then ids whose text is held back
  size_t given_ = 0;          // how many of ids_ belong to `context_`
  std::string context_;
};

}  // namespace tenon::trainer
