#include <algorithm>
#include <array>
#include <cstring>

#include "hosts/trainer/text/tokenizer/model.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {
namespace {

constexpr size_t kCacheWords = 1 << 16;
constexpr size_t kCacheBytes = 8 << 20;
constexpr size_t kLongestCachedWord = 256;

struct Alphabet {
  std::array<char32_t, 256> chars;
  std::array<int16_t, 512> bytes;
  Alphabet() {
    bytes.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      chars[b] = printable ? char32_t(b) : next++;
      bytes[chars[b]] = int16_t(b);
    }
  }
};
const Alphabet& alphabet() {
  static const Alphabet a;
  return a;
}

}  // namespace

void Vocabulary::index() {
  ids.start(tokens);
  for (uint32_t id = 0; id < tokens.size(); ++id)
    if (present[id]) ids.insert(id);
}

uint64_t WordCache::hash(std::string_view word) {
  const uint64_t h = hash_word(word);
  return h == FlatTable<int>::kEmpty ? 0 : h;
}

const uint32_t* WordCache::find(std::string_view word, uint64_t hash, size_t& count) const {
  const Entry* e = entries_.find(hash);
  if (!e || e->word_size != word.size() || std::memcmp(words_.data() + e->word_at, word.data(), word.size()) != 0)
    return nullptr;
  count = e->ids_count;
  return ids_.data() + e->ids_at;
}

void WordCache::insert(std::string_view word, uint64_t hash, const uint32_t* ids, size_t count) {
  if (word.size() > kLongestCachedWord) return;
  if (entries_.size() >= kCacheWords || words_.size() + ids_.size() * 4 >= kCacheBytes) {
    entries_ = FlatTable<Entry>(1 << 12);
    words_.clear();
    ids_.clear();
  }
  entries_[hash] = {uint32_t(words_.size()), uint32_t(word.size()), uint32_t(ids_.size()), uint32_t(count)};
  words_.append(word);
  ids_.insert(ids_.end(), ids, ids + count);
}

char32_t byte_to_char(unsigned char byte) {
  return alphabet().chars[byte];
}
int char_to_byte(char32_t c) {
  return c < 512 ? alphabet().bytes[c] : -1;
}

bool spelled_bytes(std::string_view token, std::string& bytes) {
  bytes.clear();
  bytes.reserve(token.size());
  for (size_t i = 0; i < token.size();) {
    const int b = char_to_byte(next_utf8(token, i));
    if (b < 0) return false;
    bytes += char(b);
  }
  return true;
}

std::string byte_token(unsigned char byte) {
  const char* digits = "0123456789ABCDEF";
  return std::string("<0x") + digits[byte >> 4] + digits[byte & 15] + ">";
}

int byte_of_token(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

}  // namespace tenon::trainer
