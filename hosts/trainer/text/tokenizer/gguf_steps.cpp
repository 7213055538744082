#include "hosts/trainer/text/tokenizer/gguf_steps.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "hosts/trainer/text/tokenizer/fast_splits.h"

namespace tenon::trainer {
namespace {

constexpr const char* kO200kPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Json split(const char* pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}
Json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}
Json sequence(Json a, Json b) {
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({std::move(a), std::move(b)})}};
}

}  // namespace

Json gguf_pre_tokenizer(const std::string& pre, bool& ignore_merges, const std::string& where) {
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

BpeOptions gguf_byte_level_bpe(const GgufVocabulary& v, const std::string& where) {
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

BpeOptions gguf_sentencepiece_bpe(const GgufVocabulary& v, const Vocabulary& vocabulary, const std::string& where) {
  if (v.scores.size() != v.tokens.size())
    throw Error(TN_E_FORMAT, where + ": tokenizer.ggml.scores has " + std::to_string(v.scores.size()) +
                                 " entries for " + std::to_string(v.tokens.size()) + " tokens; the file is damaged");
  std::vector<uint32_t> order;
  for (uint32_t id = 0; id < v.tokens.size(); ++id) {
    if (!std::isfinite(v.scores[id]))
      throw Error(TN_E_FORMAT,
                  where + ": the score of token " + std::to_string(id) + " is not finite; the file is damaged");
    if (v.token_types.empty() || v.token_types[id] == 1 || v.token_types[id] == kGgufUserDefined) order.push_back(id);
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

Json sentencepiece_normalizer(bool prefixed) {
  Json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpaceMark}};
  if (!prefixed) return replace;
  Json prepend = {{"type", "Prepend"}, {"prepend", kSpaceMark}};
  return {{"type", "Sequence"}, {"normalizers", Json::array({std::move(prepend), std::move(replace)})}};
}

}  // namespace tenon::trainer
