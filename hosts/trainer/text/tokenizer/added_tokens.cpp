#include "hosts/trainer/text/tokenizer/added_tokens.h"

#include <algorithm>
#include <functional>

#include "hosts/trainer/text/unicode/char_class.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {

void AddedTokenMatcher::add(AddedToken token) {
  if (token.content.empty()) return;
  auto& lengths = starts_[static_cast<unsigned char>(token.content[0])].lengths;
  if (std::find(lengths.begin(), lengths.end(), token.content.size()) == lengths.end()) {
    lengths.push_back(token.content.size());
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
  }
  const std::string key = token.content;
  tokens_.insert_or_assign(key, std::move(token));
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, size_t pos) const {
  thread_local std::string key;
  for (const size_t length : starts_[static_cast<unsigned char>(text[pos])].lengths) {
    if (pos + length > text.size()) continue;
    key.assign(text.substr(pos, length));
    const auto it = tokens_.find(key);
    if (it != tokens_.end()) return &it->second;
  }
  return nullptr;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<Part>& out) const {
  size_t covered = 0;
  if (!tokens_.empty()) {
    for (size_t pos = 0; pos < text.size();) {
      if (starts_[static_cast<unsigned char>(text[pos])].lengths.empty()) {
        ++pos;
        continue;
      }
      const AddedToken* token = longest_at(text, pos);
      if (!token) {
        ++pos;
        continue;
      }
      size_t begin = pos, end = pos + token->content.size();
      pos = end;
      if (token->single_word) {
        size_t before = begin, after = end;
        const bool glued = (begin > 0 && (char_class(previous_utf8(text, before)) & kWord)) ||
                           (end < text.size() && (char_class(next_utf8(text, after)) & kWord));
        if (glued) continue;
      }
      if (token->lstrip)
        for (size_t i = begin; begin > covered; begin = i)
          if (!(char_class(previous_utf8(text, i)) & kSpace)) break;
      if (token->rstrip)
        for (size_t i = end; end < text.size(); end = i)
          if (!(char_class(next_utf8(text, i)) & kSpace)) break;
      if (begin > covered) out.push_back({text.substr(covered, begin - covered), -1});
      out.push_back({text.substr(begin, end - begin), token->id});
      covered = end;
      pos = std::max(pos, covered);
    }
  }
  if (covered < text.size()) out.push_back({text.substr(covered), -1});
}

}  // namespace tenon::trainer
