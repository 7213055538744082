#include "hosts/trainer/text/tokenizer/gguf_steps.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace tenon::trainer {
BpeOptions gguf_byte_level_bpe(const GgufVocabulary& v, const std::string& where) {
  BpeOptions o;
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
