// Memory of the tests' tensors, out of the host's reach while a GPU's code is called: what an object of the emulated GPU does outside kernels
// and the device's functions faults when it touches a tensor, as on a card.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <functional>
#include <new>

#include "sdk/gpu/emulated_ranges.h"
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
    const auto at = ranges_.take(n);
    if (!at) throw std::bad_alloc();
    return base_ + *at;
  }
  void release(uint8_t* memory) {
    if (!base_ || memory < base_ || memory >= base_ + kBytes) return ::operator delete(memory, std::align_val_t{TN_ALIGNMENT});
    ranges_.give_back(static_cast<uint64_t>(memory - base_));
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
  static constexpr uint64_t kBytes = uint64_t{1} << 32;
  void reserve() {
    void* const at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<uint8_t*>(at);
  }
  void protect(bool closed) {
    closed_ = closed;
    if (base_) mprotect(base_, kBytes, closed ? PROT_NONE : PROT_READ | PROT_WRITE);
  }
  bool apart_ = false, closed_ = false;
  uint8_t* base_ = nullptr;
  gpu::EmulatedRanges ranges_{kBytes};
};

}  // namespace tenon::sdk::testing
