#include "hosts/trainer/text/tokenizer/tokenizer_parts.h"

#include <algorithm>

#include "core/error.h"
#include "hosts/trainer/text/unicode/char_class.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {
namespace {

constexpr size_t kSpareIds = 1 << 20;

bool is_letter_or_digit(char32_t c) {
  return char_class(c) & (kLetter | kNumber);
}

}  // namespace

void TokenizerBuilder::set_vocabulary(std::vector<std::pair<std::string, uint32_t>> tokens) {
  Vocabulary& v = parts->vocabulary;
  if (tokens.empty()) throw Error(TN_E_FORMAT, parts->where + ": the vocabulary is empty; the file is damaged");
  uint32_t largest = 0;
  for (const auto& [token, id] : tokens) largest = std::max(largest, id);
  if (largest > 2 * tokens.size() + kSpareIds)
    throw Error(TN_E_FORMAT, parts->where + ": token id " + std::to_string(largest) +
                                 " is out of range for a vocabulary of " + std::to_string(tokens.size()) +
                                 " tokens; the file is damaged");
  v.tokens.resize(size_t(largest) + 1);
  v.present.resize(size_t(largest) + 1);
  for (auto& [token, id] : tokens) {
    if (v.present[id])
      throw Error(TN_E_FORMAT, parts->where + ": the tokens \"" + v.tokens[id] + "\" and \"" + token +
                                   "\" share the id " + std::to_string(id) + "; the file is damaged");
    if (find_invalid_utf8(token) != std::string_view::npos)
      throw Error(TN_E_FORMAT, parts->where + ": token " + std::to_string(id) + " is not UTF-8; the file is damaged");
    v.present[id] = true;
    v.tokens[id] = std::move(token);
  }
  v.index();
}

void TokenizerBuilder::add_tokens(std::vector<AddedToken> tokens) {
  Vocabulary& v = parts->vocabulary;
  size_t size = v.tokens.size();
  for (AddedToken& t : tokens) {
    if (const uint32_t* id = v.find(t.content)) t.id = *id;
    if (t.id > 2 * (size + tokens.size()) + kSpareIds)
      throw Error(TN_E_FORMAT, parts->where + ": the added token \"" + t.content + "\" has the id " +
                                   std::to_string(t.id) + ", out of range for a vocabulary of " + std::to_string(size) +
                                   " tokens; the file is damaged");
  }
  for (const AddedToken& t : tokens) size = std::max<size_t>(size, size_t(t.id) + 1);
  v.tokens.resize(size);
  v.present.resize(size);
  parts->special.resize(size);
  for (AddedToken& t : tokens) {
    if (t.content.empty()) continue;
    v.tokens[t.id] = t.content;
    v.present[t.id] = true;
    parts->special[t.id] = parts->special[t.id] || t.special;
    size_t end = t.content.size();
    if (t.lstrip || t.rstrip || t.single_word || t.content.find('\n') != std::string::npos ||
        is_letter_or_digit(previous_utf8(t.content, end)))
      parts->plain_cuts = false;
    if (t.normalized) {
      const std::string content = t.content;
      if (parts->normalizer) parts->normalizer->apply(t.content, false);
      if (t.content != content) parts->decoded_as[t.id] = t.content;
      parts->normalized_added.add(std::move(t));
    } else {
      parts->raw_added.add(std::move(t));
    }
  }
  v.index();
}

Tokenizer TokenizerBuilder::finish() {
  parts->special.resize(parts->vocabulary.tokens.size());
  return Tokenizer(std::move(parts));
}

size_t Tokenizer::Parts::find_cut(std::string_view text, size_t from) const {
  const NewlineCut kind = pre_tokenizer ? pre_tokenizer->at_newline() : NewlineCut::kKeeps;
  if (!plain_cuts || kind == NewlineCut::kNever || (normalizer && !normalizer->cuts_at_newlines()))
    return std::string_view::npos;
  for (size_t at = text.find('\n', std::max<size_t>(from, 1)); at != std::string_view::npos;
       at = text.find('\n', at + 1)) {
    size_t before = at;
    const char32_t c = previous_utf8(text, before);
    if (!is_letter_or_digit(c)) continue;
    if (kind == NewlineCut::kAlways) return at;
    // The model sees both characters in one piece. A normalizer might change the first, so that only ASCII is sure.
    return c < 0x80 && model->separates(c, '\n') ? at : std::string_view::npos;
  }
  return std::string_view::npos;
}

void Tokenizer::Parts::encode_part(std::string_view text, bool continues, WordCache& cache,
                                   std::vector<int32_t>& out) const {
  std::vector<AddedTokenMatcher::Part> found, inner;
  raw_added.split(text, found);
  Pieces pieces;
  std::string normalized;
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i].id >= 0) {
      out.push_back(int32_t(found[i].id));
      continue;
    }
    std::string_view part = found[i].text;
    if (normalizer) {
      normalized.assign(part);
      normalizer->apply(normalized, continues && i == 0);
      part = normalized;
    }
    inner.clear();
    if (!part.empty()) normalized_added.split(part, inner);
    for (size_t j = 0; j < inner.size(); ++j) {
      if (inner[j].id >= 0) {
        out.push_back(int32_t(inner[j].id));
        continue;
      }
      const Origin origin = i > 0 || j > 0 ? Origin::kInside : continues ? Origin::kContinued : Origin::kStart;
      if (!pre_tokenizer) {
        model->tokenize(inner[j].text, cache, out);
        continue;
      }
      pieces.list.assign(1, {inner[j].text, origin});
      pieces.owned.clear();
      pre_tokenizer->apply(pieces);
      for (const auto& piece : pieces.list) model->tokenize(piece.text, cache, out);
    }
  }
}

}  // namespace tenon::trainer
