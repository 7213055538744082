#include "hosts/trainer/text/tokenizer/tokenizer.h"

#include "core/error.h"
#include "hosts/trainer/text/tokenizer/tokenizer_parts.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {
namespace {

constexpr size_t kPartBytes = 256 << 10;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  std::vector<int32_t> ids;
  if (add_special) ids = parts_->prefix;
  encode_append(text, ids);
  if (add_special) ids.insert(ids.end(), parts_->suffix.begin(), parts_->suffix.end());
  return ids;
}

void Tokenizer::encode_append(std::string_view text, std::vector<int32_t>& out) const {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos)
    throw Error(TN_E_FORMAT, "the text is not UTF-8 at byte " + std::to_string(bad) + "; convert it to UTF-8");
  std::unique_ptr<WordCache> cache;
  {
    const std::lock_guard lock(parts_->cache_mutex);
    if (!parts_->caches.empty()) {
      cache = std::move(parts_->caches.back());
      parts_->caches.pop_back();
    }
  }
  if (!cache) cache = std::make_unique<WordCache>();
  for (size_t begin = 0; begin < text.size();) {
    const std::string_view rest = text.substr(begin);
    const size_t cut = rest.size() > kPartBytes ? parts_->find_cut(rest, kPartBytes) : std::string_view::npos;
    parts_->encode_part(rest.substr(0, cut), begin > 0, *cache, out);
    if (cut == std::string_view::npos) break;
    begin += cut;
  }
  const std::lock_guard lock(parts_->cache_mutex);
  parts_->caches.push_back(std::move(cache));
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const int32_t id : ids) {
    if (id < 0 || size_t(id) >= vocabulary_size() || !parts_->vocabulary.present[id]) continue;
    if (skip_special && is_special(id)) continue;
    const auto normalized = parts_->decoded_as.find(uint32_t(id));
    tokens.push_back(normalized == parts_->decoded_as.end() ? parts_->vocabulary.tokens[id] : normalized->second);
  }
  if (parts_->decoder) parts_->decoder->apply(tokens);
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i && !parts_->decoder) text += ' ';
    text += tokens[i];
  }
  return text;
}

size_t Tokenizer::vocabulary_size() const {
  return parts_->vocabulary.tokens.size();
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
  const uint32_t* id = parts_->vocabulary.find(token);
  return id ? std::optional(int32_t(*id)) : std::nullopt;
}

std::string_view Tokenizer::token_of(int32_t id) const {
  return id >= 0 && size_t(id) < vocabulary_size() ? std::string_view(parts_->vocabulary.tokens[id])
                                                   : std::string_view();
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && size_t(id) < vocabulary_size() && parts_->special[id];
}
std::optional<int32_t> Tokenizer::bos_id() const {
  return parts_->bos;
}
std::optional<int32_t> Tokenizer::eos_id() const {
  return parts_->eos;
}
std::optional<int32_t> Tokenizer::pad_id() const {
  return parts_->pad;
}

std::string StreamDecoder::push(int32_t id) {
  ids_.push_back(id);
  return advance(false);
}

std::string StreamDecoder::finish() {
  std::string rest = advance(true);
  ids_.clear();
  context_.clear();
  given_ = 0;
  return rest;
}

// A decoder may look at the token before (a leading space), so that the ids given out last stay in the window.
std::string StreamDecoder::advance(bool last) {
  const std::string text = tokenizer_.decode(ids_, skip_special_);
  if (!last && text.ends_with(kReplacement)) return "";
  if (text.size() <= context_.size()) return "";
  std::string fresh = text.substr(context_.size());
  ids_.erase(ids_.begin(), ids_.begin() + std::ptrdiff_t(given_));
  given_ = ids_.size();
  context_ = tokenizer_.decode(ids_, skip_special_);
  return fresh;
}

}  // namespace tenon::trainer
