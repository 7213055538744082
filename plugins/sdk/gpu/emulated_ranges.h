// Which bytes of an address range are taken: first fit, and neighbours that are given back join. What an emulated GPU's memory is handed out from.
#pragma once

#include <cstdint>
#include <iterator>
#include <map>
#include <optional>

namespace tenon::sdk::gpu {

class EmulatedRanges {
 public:
  static constexpr uint64_t kPage = 4096;  // what is handed out begins and ends at pages, so that access can be taken away

  explicit EmulatedRanges(uint64_t bytes) : free_{{0, bytes}} {}

  // Where n bytes lie now, or nothing where no hole is that long.
  std::optional<uint64_t> take(uint64_t n) {
    const uint64_t pages = (n + kPage - 1) / kPage * kPage;
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->second < pages) continue;
      const auto [at, size] = *it;
      free_.erase(it);
      if (size > pages) free_[at + pages] = size - pages;
      live_[at] = pages, used_ += pages;
      return at;
    }
    return std::nullopt;
  }
  // at: what take() answered.
  void give_back(uint64_t at) {
    const auto found = live_.find(at);
    uint64_t size = found->second;
    live_.erase(found), used_ -= size;
    auto next = free_.lower_bound(at);
    if (next != free_.end() && at + size == next->first) size += next->second, next = free_.erase(next);
    if (next != free_.begin()) {
      const auto previous = std::prev(next);
      if (previous->first + previous->second == at) {
        previous->second += size;
        return;
      }
    }
    free_[at] = size;
  }
  uint64_t used() const { return used_; }

 private:
  std::map<uint64_t, uint64_t> free_, live_;  // offset -> bytes
  uint64_t used_ = 0;
};

}  // namespace tenon::sdk::gpu
