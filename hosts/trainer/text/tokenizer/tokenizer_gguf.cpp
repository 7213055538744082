// Tokenizer::from_gguf: the tokenizer.ggml.* metadata of a GGUF file, turned into the steps that its tokenizer.json
// had.
#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "hosts/trainer/text/json_input.h"
#include "hosts/trainer/text/tokenizer/fast_splits.h"
#include "hosts/trainer/text/tokenizer/tokenizer_parts.h"

namespace tenon::trainer {
namespace {

constexpr int32_t kControl = 3, kUserDefined = 4;
constexpr const char* kSpaceMark = "\xE2\x96\x81";
constexpr const char* kO200kPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Json split(const char* pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
}
Json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", use_regex}};
}
Json sequence(Json a, Json b) {
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({std::move(a), std::move(b)})}};
}

// The pre-tokenizer that the name in tokenizer.ggml.pre stands for.
Json pre_tokenizer_of(const std::string& pre, bool& ignore_merges, const std::string& where) {
  static const std::map<std::string, int> kinds = {{"smollm", 0},     {"starcoder", 0},   {"refact", 0},
                                                   {"command-r", 0},  {"codeshell", 0},   {"exaone", 0},
                                                   {"minerva-7b", 0}, {"llama3", 1},      {"llama-v3", 1},
                                                   {"llama-bpe", 1},  {"falcon3", 1},     {"dbrx", 2},
                                                   {"smaug-bpe", 2},  {"chatglm-bpe", 2}, {"glm4", 2},
                                                   {"qwen2", 3},      {"stablelm2", 3},   {"deepseek-r1-qwen", 3},
                                                   {"megrez", 3},     {"hunyuan", 3},     {"gpt-2", 4},
                                                   {"gpt2", 4},       {"phi-2", 4},       {"mpt", 4},
                                                   {"olmo", 4},       {"roberta-bpe", 4}, {"jina-es", 4},
                                                   {"jina-de", 4},    {"gigachat", 4},    {"", 4},
                                                   {"default", 4},    {"gpt-4o", 5},      {"llama4", 5}};
  const auto kind = kinds.find(pre);
  if (kind == kinds.end())
    throw Error(TN_E_UNSUPPORTED, where + ": the pre-tokenizer \"" + pre +
                                      "\" (tokenizer.ggml.pre) is not known; train from the Hugging Face folder, whose "
                                      "tokenizer.json spells it out");
  switch (kind->second) {
    case 0:
      return sequence({{"type", "Digits"}, {"individual_digits", true}}, byte_level(true));
    case 1:
      ignore_merges = true;
      [[fallthrough]];
    case 2:
      return sequence(split(kLlama3Pattern), byte_level(false));
    case 3:
      return sequence(split(kQwen2Pattern), byte_level(false));
    case 5:
      return sequence(split(kO200kPattern), byte_level(false));
    default:
      return byte_level(true);
  }
}

BpeOptions byte_level_bpe(const GgufVocabulary& v, const std::string& where) {
  BpeOptions o;
  o.raw_bytes = true;
  o.merges.reserve(v.merges.size());
  for (const std::string& m : v.merges) {
    const size_t space = m.find(' ', 1);
    if (space == std::string::npos || space + 1 == m.size())
      throw Error(TN_E_FORMAT, where + ": merge " + std::to_string(o.merges.size()) + " (\"" + m +
                                   "\") must be two tokens with a space between them; the file is damaged");
    o.merges.emplace_back(m.substr(0, space), m.substr(space + 1));
  }
  return o;
}

// Sentencepiece merges any two neighbours whose concatenation is a token, the one of highest score first: the same as
// ranked merges of every way to halve a token, with the rank of its score.
BpeOptions sentencepiece_bpe(const GgufVocabulary& v, const Vocabulary& vocabulary, const std::string& where) {
  if (v.scores.size() != v.tokens.size())
    throw Error(TN_E_FORMAT, where + ": tokenizer.ggml.scores has " + std::to_string(v.scores.size()) +
                                 " entries for " + std::to_string(v.tokens.size()) + " tokens; the file is damaged");
  std::vector<uint32_t> order;
  for (uint32_t id = 0; id < v.tokens.size(); ++id) {
    if (!std::isfinite(v.scores[id]))
      throw Error(TN_E_FORMAT,
                  where + ": the score of token " + std::to_string(id) + " is not finite; the file is damaged");
    if (v.token_types.empty() || v.token_types[id] == 1 || v.token_types[id] == kUserDefined) order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return v.scores[a] > v.scores[b]; });
  BpeOptions o;
  uint32_t rank = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i && v.scores[order[i]] != v.scores[order[i - 1]]) ++rank;
    const std::string& token = v.tokens[order[i]];
    if (token.size() > 512) continue;  // longer ones are not words; halving them would be quadratic
    for (size_t cut = 1; cut < token.size(); ++cut) {
      if ((static_cast<unsigned char>(token[cut]) & 0xC0) == 0x80) continue;
      const std::string_view whole = token;
      if (!vocabulary.find(whole.substr(0, cut)) || !vocabulary.find(whole.substr(cut))) continue;
      o.merges.emplace_back(token.substr(0, cut), token.substr(cut));
      o.ranks.push_back(rank);
    }
  }
  o.fuse_unk = o.byte_fallback = true;
  if (v.unk_id >= 0) {
    o.has_unk = true;
    o.unk_token = vocabulary.tokens[size_t(v.unk_id)];
  }
  return o;
}

Json sentencepiece_decoder(bool prefixed) {
  Json steps = Json::array({{{"type", "Replace"}, {"pattern", {{"String", kSpaceMark}}}, {"content", " "}},
                            {{"type", "ByteFallback"}},
                            {{"type", "Fuse"}}});
  if (prefixed) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", std::move(steps)}};
}

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
  for (uint32_t id = 0; id < count; ++id) {
    tokens.emplace_back(v.tokens[id], id);
    const int32_t type = v.token_types.empty() ? 1 : v.token_types[id];
    if (type != kControl && type != kUserDefined) continue;
    AddedToken t;
    t.id = id;
    t.content = v.tokens[id];
    t.special = type == kControl;
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
    bool ignore_merges = false;
    parts.pre_tokenizer = make_pre_tokenizer(pre_tokenizer_of(v.pre, ignore_merges, where), where);
    parts.pre_tokenizer->hand_over_bytes();
    parts.decoder = make_decoder({{"type", "ByteLevel"}}, where);
    options = byte_level_bpe(v, where);
    options.ignore_merges = ignore_merges;
  } else if (v.model == "llama") {
    const bool prefix = v.add_space_prefix.value_or(true);
    adds_bos = true;
    std::vector<std::unique_ptr<Normalizer>> steps;
    if (prefix) steps.push_back(make_prepend(kSpaceMark));
    steps.push_back(make_replace(" ", kSpaceMark));
    parts.normalizer = make_sequence(std::move(steps));
    parts.decoder = make_decoder(sentencepiece_decoder(prefix), where);
    options = sentencepiece_bpe(v, parts.vocabulary, where);
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
