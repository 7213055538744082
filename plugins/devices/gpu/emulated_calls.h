// The runtime of the emulated GPU: memory that faults when the host touches it, and work that runs only when somebody waits for it.
#pragma once

#include <sys/mman.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>

#include "sdk/gpu/emulated_block.h"
#include "sdk/gpu/emulated_ranges.h"
#include "tenon/device.h"

namespace tenon::gpu {

using sdk::gpu::kSuccess;
using sdk::gpu::Status;

// All device memory of this process. It is closed (no access at all) except while work of the device runs.
class Arena {
 public:
  static Arena& get() {
    static Arena arena;
    return arena;
  }
  Status allocate(void** out, uint64_t n) {
    const auto at = ranges_.take(n);
    if (!at) return Status::kOutOfMemory;
    *out = base_ + *at;
    return kSuccess;
  }
  void release(void* memory) { ranges_.give_back(static_cast<uint64_t>(static_cast<char*>(memory) - base_)); }
  uint64_t used() const { return ranges_.used(); }
  static constexpr uint64_t kBytes = uint64_t{1} << 30;

  // What device code does.
  template <class Work>
  void run(Work&& work) {
    mprotect(base_, kBytes, PROT_READ | PROT_WRITE);
    work();
    mprotect(base_, kBytes, PROT_NONE);
  }

 private:
  Arena() : base_(static_cast<char*>(mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {}
  char* base_;
  sdk::gpu::EmulatedRanges ranges_{kBytes};
};

struct EmulatedEvent {
  std::chrono::steady_clock::time_point at;
};

// Its work waits until somebody waits for it.
struct QueuedStream : sdk::gpu::EmulatedStream {
  std::deque<std::function<void()>> work;
  QueuedStream() {
    submit = [](sdk::gpu::EmulatedStream* self, std::function<void()> f) { static_cast<QueuedStream*>(self)->work.push_back(std::move(f)); };
    all().push_back(this);
  }
  ~QueuedStream() {
    run();
    std::erase(all(), this);
  }
  void run() {
    if (work.empty()) return;
    Arena::get().run([&] {
      for (; !work.empty(); work.pop_front()) work.front()();
    });
  }
  static std::vector<QueuedStream*>& all() {
    static std::vector<QueuedStream*> streams;
    return streams;
  }
};
using Stream = QueuedStream*;
using Event = EmulatedEvent*;

inline Status synchronize() {
  for (QueuedStream* const s : QueuedStream::all()) s->run();
  return kSuccess;
}
inline Status device_count(int* n) { return *n = 1, kSuccess; }
inline Status set_device(int) { return kSuccess; }
inline Status memory_info(size_t* free, size_t* total) { return *total = Arena::kBytes, *free = Arena::kBytes - Arena::get().used(), kSuccess; }
inline Status allocate(void** out, uint64_t n, bool) { return Arena::get().allocate(out, n); }
inline Status release(void* memory, bool) {
  synchronize();
  Arena::get().release(memory);
  return kSuccess;
}
inline Status host_allocate(void** out, uint64_t n) {
  *out = std::aligned_alloc(TN_ALIGNMENT, (n + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT);
  return *out ? kSuccess : Status::kOutOfMemory;
}
inline Status host_release(void* memory) { return std::free(memory), kSuccess; }
// As with a card: a copy from the host has read its source when it returns, and one to the host waits for what is before it.
inline Status copy(void* to, const void* from, uint64_t n, uint32_t direction, Stream stream) {
  if (direction == TN_COPY_TO_DEVICE) {
    std::vector<char> staged(static_cast<const char*>(from), static_cast<const char*>(from) + n);
    const auto work = [to, staged = std::move(staged)] { std::memcpy(to, staged.data(), staged.size()); };
    if (stream)
      stream->work.push_back(work);
    else
      Arena::get().run(work);
  } else if (direction == TN_COPY_WITHIN && stream) {
    stream->work.push_back([=] { std::memmove(to, from, n); });
  } else {
    synchronize();
    Arena::get().run([&] { std::memmove(to, from, n); });
  }
  return kSuccess;
}
inline Status fill(void* to, uint8_t byte, uint64_t n, Stream stream) {
  const auto work = [=] { std::memset(to, byte, n); };
  if (stream)
    stream->work.push_back(work);
  else
    Arena::get().run(work);
  return kSuccess;
}
inline Status stream_create(Stream* out) { return *out = new QueuedStream, kSuccess; }
inline Status stream_destroy(Stream stream) { return delete stream, kSuccess; }
inline Status stream_wait(Stream stream) { return stream ? (stream->run(), kSuccess) : synchronize(); }
inline Status event_create(Event* out) { return *out = new EmulatedEvent, kSuccess; }
inline Status event_destroy(Event event) { return delete event, kSuccess; }
inline Status event_record(Event event, Stream stream) {
  stream_wait(stream);
  return event->at = std::chrono::steady_clock::now(), kSuccess;
}
inline Status stream_wait_event(Stream, Event) { return kSuccess; }
inline Status event_seconds(Event begin, Event end, double* seconds) {
  return *seconds = std::chrono::duration<double>(end->at - begin->at).count(), kSuccess;
}

struct Properties {
  std::string name = "emulated GPU", arch = "wave" + std::to_string(TENON_EMULATED_WAVE);
  int multiprocessors = 1;
  bool pools = false, capable = true;
};
inline Status properties(int, Properties*) { return kSuccess; }
inline std::string versions() { return "emulated on the CPU"; }

}  // namespace tenon::gpu
