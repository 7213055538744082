// Tokenizer::from_gguf: the tokenizer.ggml.* metadata of a GGUF file, turned into the steps that its tokenizer.json
// had.
#include "core/error.h"
#include "hosts/trainer/text/json_input.h"
#include "hosts/trainer/text/tokenizer/gguf_steps.h"
#include "hosts/trainer/text/tokenizer/tokenizer_parts.h"

namespace tenon::trainer {
namespace {

std::optional<int32_t> checked_id(int64_t id, size_t count, const char* key, const std::string& where) {
  if (id == -1) return std::nullopt;
  if (id < 0 || size_t(id) >= count)
    throw Error(TN_E_FORMAT, where + ": tokenizer.ggml." + key + " is " + std::to_string(id) + " but there are " +
                                 std::to_string(count) + " tokens; the file is damaged");
  return int32_t(id);
}

}  // namespace

Tokenizer Tokenizer::from_gguf(GgufVocabulary v, const std::string& where) {
  TokenizerBuilder builder;
  Parts& parts = *builder.parts;
  parts.where = where;
  const size_t count = v.tokens.size();
  if (!v.token_types.empty() && v.token_types.size() != count)
    throw Error(TN_E_FORMAT, where + ": tokenizer.ggml.token_type has " + std::to_string(v.token_types.size()) +
                                 " entries for " + std::to_string(count) + " tokens; the file is damaged");
  std::vector<std::pair<std::string, uint32_t>> tokens;
  std::vector<AddedToken> added;
  tokens.reserve(count);
  for (uint32_t id = 0; id < count; ++id) {
    tokens.emplace_back(v.tokens[id], id);
    const int32_t type = v.token_types.empty() ? 1 : v.token_types[id];
    if (type != kGgufControl && type != kGgufUserDefined) continue;
    AddedToken t;
    t.id = id;
    t.content = v.tokens[id];
    t.special = type == kGgufControl;
    added.push_back(std::move(t));
  }
  builder.set_vocabulary(std::move(tokens));
  parts.bos = checked_id(v.bos_id, count, "bos_token_id", where);
  parts.eos = checked_id(v.eos_id, count, "eos_token_id", where);
  parts.pad = checked_id(v.pad_id, count, "padding_token_id", where);
  checked_id(v.unk_id, count, "unknown_token_id", where);
  BpeOptions options;
  bool adds_bos = false;
  if (v.model == "gpt2") {
    const GgufPreTokenizer pre = gguf_pre_tokenizer(v.pre, where);
    if (pre.nfc) parts.normalizer = make_normalizer({{"type", "NFC"}}, where);
    parts.pre_tokenizer = make_pre_tokenizer(pre.steps, where);
    parts.decoder = make_decoder({{"type", "ByteLevel"}}, where);
    options = gguf_byte_level_bpe(v, where);
    options.raw_bytes = parts.pre_tokenizer->hand_over_bytes();
    options.ignore_merges = pre.ignore_merges;
    adds_bos = pre.adds_bos;
  } else if (v.model == "llama") {
    const bool prefix = v.add_space_prefix.value_or(true);
    adds_bos = true;
    parts.normalizer = make_normalizer(sentencepiece_normalizer(prefix), where);
    parts.decoder = make_decoder(sentencepiece_decoder(prefix), where);
    options = gguf_sentencepiece_bpe(v, parts.vocabulary, where);
  } else {
    throw Error(TN_E_UNSUPPORTED, where + ": the tokenizer model \"" + v.model +
                                      "\" (tokenizer.ggml.model) is not supported; known are gpt2 and llama");
  }
  parts.model = make_bpe(parts.vocabulary, options, where);
  builder.add_tokens(std::move(added));
  if (v.add_bos.value_or(adds_bos) && parts.bos) parts.prefix.push_back(*parts.bos);
  if (v.add_eos.value_or(false) && parts.eos) parts.suffix.push_back(*parts.eos);
  return builder.finish();
}

}  // namespace tenon::trainer
