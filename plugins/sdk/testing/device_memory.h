// Memory of the tests' tensors, out of the host's reach while a GPU's code is called: what an object of the emulated GPU does outside kernels
// and the device's functions faults when it touches a tensor, as on a card.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <functional>
#include <map>
#include <new>

#include "tenon/host.h"

// The stream of such a call: the emulated GPU hands its kernels to it (sdk/gpu/emulated_block.h), and they run at once.
struct tn_stream {
  void (*submit)(tn_stream*, std::function<void()> work);
};

namespace tenon::sdk::testing {

class DeviceMemory {
 public:
  static DeviceMemory& get() {
    static DeviceMemory memory;
    return memory;
  }
  // Whether tensors that are made from now on are a GPU's: of the object under test.
  void set_apart(bool apart) { apart_ = apart; }

  uint8_t* allocate(uint64_t n) {
    if (!apart_) return static_cast<uint8_t*>(::operator new(n, std::align_val_t{TN_ALIGNMENT}));
    if (!base_) reserve();
    const uint64_t pages = (n + kPage - 1) / kPage * kPage;
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->second < pages) continue;
      const auto [at, size] = *it;
      free_.erase(it);
      if (size > pages) free_[at + pages] = size - pages;
      live_[at] = pages;
      return base_ + at;
    }
    throw std::bad_alloc();
  }
  void release(uint8_t* memory) {
    if (!base_ || memory < base_ || memory >= base_ + kBytes) return ::operator delete(memory, std::align_val_t{TN_ALIGNMENT});
    const auto found = live_.find(static_cast<uint64_t>(memory - base_));
    auto [at, size] = *found;
    live_.erase(found);
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

  void close() {
    if (apart_ && !closed_) protect(true);
  }
  void open() {
    if (closed_) protect(false);
  }
  // What device code does, or the test's own side of a call.
  class Reach {
   public:
    Reach() : was_closed_(get().closed_) { get().open(); }
    ~Reach() {
      if (was_closed_) get().protect(true);
    }
    Reach(const Reach&) = delete;

   private:
    bool was_closed_;
  };
  static tn_stream* stream() {
    static tn_stream stream{[](tn_stream*, std::function<void()> work) {
      const Reach reach;
      work();
    }};
    return &stream;
  }

 private:
  static constexpr uint64_t kPage = 4096, kBytes = uint64_t{1} << 32;
  void reserve() {
    void* const at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<uint8_t*>(at), free_[0] = kBytes;
  }
  void protect(bool closed) {
    closed_ = closed;
    if (base_) mprotect(base_, kBytes, closed ? PROT_NONE : PROT_READ | PROT_WRITE);
  }
  bool apart_ = false, closed_ = false;
  uint8_t* base_ = nullptr;
  std::map<uint64_t, uint64_t> free_, live_;  // offset -> bytes
};

}  // namespace tenon::sdk::testing
