// An open-addressing table from 64-bit keys to small values: the inner loop of BPE looks up a pair of ids per
// character, where std::unordered_map's node per entry costs a cache miss each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tenon::trainer {

template <class Value>
class FlatTable {
 public:
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // never a key

  explicit FlatTable(size_t expected = 0) { rehash(expected * 2 + 16); }

  Value* find(uint64_t key) {
    for (size_t i = mix(key) & mask_;; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return &slots_[i].value;
      if (slots_[i].key == kEmpty) return nullptr;
    }
  }
  const Value* find(uint64_t key) const { return const_cast<FlatTable*>(this)->find(key); }

  // The value of `key`, inserted default-made when absent. Pointers from find() die.
  Value& operator[](uint64_t key) {
    if ((size_ + 1) * 2 > slots_.size()) rehash(slots_.size() * 2);
    for (size_t i = mix(key) & mask_;; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return slots_[i].value;
      if (slots_[i].key == kEmpty) {
        ++size_;
        slots_[i].key = key;
        return slots_[i].value;
      }
    }
  }
  size_t size() const { return size_; }

 private:
  struct Slot {
    uint64_t key = kEmpty;
    Value value{};
  };
  static uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
  }
  void rehash(size_t wanted) {
    size_t capacity = 16;
    while (capacity < wanted) capacity *= 2;
    std::vector<Slot> old(capacity);
    old.swap(slots_);
    mask_ = capacity - 1;
    for (const Slot& s : old) {
      if (s.key == kEmpty) continue;
      size_t i = mix(s.key) & mask_;
      while (slots_[i].key != kEmpty) i = (i + 1) & mask_;
      slots_[i] = s;
    }
  }

  std::vector<Slot> slots_;
  size_t mask_ = 0, size_ = 0;
};

}  // namespace tenon::trainer
