// Token strings to ids: an open-addressing table over strings that somebody else keeps. A vocabulary is indexed at
// every start and looked up three times for each merge, where std::unordered_map's node per entry was most of the time.
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace tenon::trainer {

// Eight bytes at a time, mixed by multiplication; for tables whose keys nobody chooses to collide.
inline uint64_t hash_word(std::string_view word) {
  uint64_t h = word.size() * 0x9E3779B97F4A7C15u;
  const char* p = word.data();
  size_t n = word.size();
  for (; n >= 8; n -= 8, p += 8) {
    uint64_t w;
    std::memcpy(&w, p, 8);
    h = (h ^ w) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
  }
  uint64_t tail = 0;
  for (size_t i = 0; i < n; ++i) tail |= uint64_t(static_cast<unsigned char>(p[i])) << 8 * i;
  h = (h ^ tail) * 0xD6E8FEB86659FD93u;
  return h ^ h >> 29;
}

class StringTable {
 public:
  // Empties the table; `strings` outlives it and does not change while it is in use.
  void start(const std::vector<std::string>& strings) {
    strings_ = strings.data(), size_ = 0;
    size_t capacity = 16;
    while (capacity < 2 * strings.size()) capacity *= 2;
    slots_.assign(capacity, {});
  }
  // Of equal strings the first id wins.
  void insert(uint32_t id) {
    const uint64_t hash = hash_word(strings_[id]);
    Slot* const slot = place(strings_[id], hash);
    if (slot->id != kNone) return;
    *slot = {static_cast<uint32_t>(hash >> 32), id};
    ++size_;
  }
  const uint32_t* find(std::string_view text) const {
    if (slots_.empty()) return nullptr;
    const Slot* const slot = const_cast<StringTable*>(this)->place(text, hash_word(text));
    return slot->id == kNone ? nullptr : &slot->id;
  }
  size_t size() const { return size_; }

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};
  struct Slot {
    uint32_t tag = 0, id = kNone;
  };
  Slot* place(std::string_view text, uint64_t hash) {
    const size_t mask = slots_.size() - 1;
    const auto tag = static_cast<uint32_t>(hash >> 32);
    for (size_t i = hash & mask;; i = (i + 1) & mask)
      if (slots_[i].id == kNone || (slots_[i].tag == tag && strings_[slots_[i].id] == text)) return &slots_[i];
  }

  const std::string* strings_ = nullptr;
  std::vector<Slot> slots_;
  size_t size_ = 0;
};

}  // namespace tenon::trainer
