// The runtime of the emulated GPU: memory that faults when the host touches it, and work that runs only when somebody waits for it.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
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
    run([&] { std::memset(*out, 0xff, std::min(n, kPoisoned)); });  // NaN, and indices far outside: nobody may count on zeros
    return kSuccess;
  }
  void release(void* memory) { ranges_.give_back(static_cast<uint64_t>(static_cast<char*>(memory) - base_)); }
  uint64_t used() const { return ranges_.used(); }
  static constexpr uint64_t kBytes = uint64_t{1} << 30;

  // What device code does.
  template <class Work>
  void run(Work&& work) {
    if (depth_++ == 0) mprotect(base_, kBytes, PROT_READ | PROT_WRITE);
    work();
    if (--depth_ == 0) mprotect(base_, kBytes, PROT_NONE);
  }

 private:
  Arena() : base_(static_cast<char*>(mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {}
  static constexpr uint64_t kPoisoned = 2 << 20;
  char* base_;
  int depth_ = 0;  // of work within work
  sdk::gpu::EmulatedRanges ranges_{kBytes};
};

// Its work waits until somebody waits for it, and only as far as that: streams keep no order between them but what events ask for.
struct QueuedStream : sdk::gpu::EmulatedStream {
  std::deque<std::function<void()>> work;
  uint64_t done = 0;  // how much has run; with what is queued, the place of the next
  QueuedStream() {
    submit = [](sdk::gpu::EmulatedStream* self, std::function<void()> f) { static_cast<QueuedStream*>(self)->work.push_back(std::move(f)); };
    all().push_back(this);
  }
  ~QueuedStream() {
    run();
    std::erase(all(), this);
  }
  uint64_t end() const { return done + work.size(); }
  void run() { run_to(end()); }
  void run_to(uint64_t place) {
    if (done >= place) return;
    Arena::get().run([&] {
      while (done < place) {
        const auto next = std::move(work.front());
        work.pop_front(), ++done;
        next();
      }
    });
  }
  static std::vector<QueuedStream*>& all() {
    static std::vector<QueuedStream*> streams;
    return streams;
  }
};
using Stream = QueuedStream*;

// A place of a stream. Who waits for it, waits for what is before that place; it may be gone by then.
struct EmulatedEvent {
  struct Mark {
    Stream stream = nullptr;  // null: done
    uint64_t place = 0;
    std::chrono::steady_clock::time_point at;
    void wait() {
      const auto& all = QueuedStream::all();
      if (stream && std::find(all.begin(), all.end(), stream) != all.end()) stream->run_to(place);
      stream = nullptr;
    }
  };
  std::shared_ptr<Mark> mark = std::make_shared<Mark>();
};
using Event = EmulatedEvent*;

// Memory of the host that is page-locked: copies read and write it when their turn comes.
inline std::map<const char*, uint64_t>& locked_memory() {
  static std::map<const char*, uint64_t> blocks;
  return blocks;
}
inline bool is_locked(const void* p) {
  const auto next = locked_memory().upper_bound(static_cast<const char*>(p));
  if (next == locked_memory().begin()) return false;
  const auto& [base, n] = *std::prev(next);
  return static_cast<const char*>(p) < base + n;
}

// Memory that was given back while work was queued, which may still use it.
inline std::vector<void*>& given_back() {
  static std::vector<void*> blocks;
  return blocks;
}
inline Status synchronize() {
  for (QueuedStream* const s : QueuedStream::all()) s->run();
  for (void* const block : given_back()) Arena::get().release(block);
  given_back().clear();
  return kSuccess;
}
inline Status reclaim(int) { return synchronize(); }
// A sign for each card of the machine, of which a test may want several: - is one that is too old.
inline std::string cards() {
  const char* const text = std::getenv("TENON_EMULATED_CARDS");
  return text ? text : "+";
}
inline Status device_count(int* n) { return *n = static_cast<int>(cards().size()), kSuccess; }
inline Status set_device(int) { return kSuccess; }
inline Status memory_info(size_t* free, size_t* total) { return *total = Arena::kBytes, *free = Arena::kBytes - Arena::get().used(), kSuccess; }
inline Status allocate(void** out, uint64_t n, bool) { return Arena::get().allocate(out, n); }
inline Status release(void* memory, bool pooled) {
  if (memory) given_back().push_back(memory);
  return pooled ? kSuccess : synchronize();
}
inline Status host_allocate(void** out, uint64_t n) {
  *out = std::aligned_alloc(TN_ALIGNMENT, (n + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT);
  if (!*out) return Status::kOutOfMemory;
  std::memset(*out, 0xff, n);
  locked_memory()[static_cast<const char*>(*out)] = n;
  return kSuccess;
}
inline Status host_release(void* memory) {
  synchronize();
  locked_memory().erase(static_cast<const char*>(memory));
  return std::free(memory), kSuccess;
}
inline bool reads_later(int, const void*) { return false; }
// As with a card: between the device and page-locked memory a copy comes when its turn does; from other memory it has read its source when it
// returns, and to other memory it waits for what is before it on its stream.
inline Status copy(void* to, const void* from, uint64_t n, uint32_t direction, Stream stream) {
  std::function<void()> work = [=] { std::memmove(to, from, n); };
  if (direction == TN_COPY_TO_DEVICE && !is_locked(from)) {
    std::vector<char> staged(static_cast<const char*>(from), static_cast<const char*>(from) + n);
    work = [to, staged = std::move(staged)] { std::memcpy(to, staged.data(), staged.size()); };
  }
  if (!stream) {
    synchronize();
    Arena::get().run(work);
    return kSuccess;
  }
  stream->work.push_back(std::move(work));
  if (direction == TN_COPY_TO_HOST && !is_locked(to)) stream->run();
  return kSuccess;
}
inline Status fill(void* to, uint8_t byte, uint64_t n, Stream stream) {
  const auto work = [=] { std::memset(to, byte, n); };
  if (stream) {
    stream->work.push_back(work);
  } else {
    synchronize();
    Arena::get().run(work);
  }
  return kSuccess;
}
inline Status stream_create(Stream* out) { return *out = new QueuedStream, kSuccess; }
inline Status stream_destroy(Stream stream) { return delete stream, kSuccess; }
inline Status stream_wait(Stream stream) { return stream ? (stream->run(), kSuccess) : synchronize(); }
inline Status event_create(Event* out) { return *out = new EmulatedEvent, kSuccess; }
inline Status event_destroy(Event event) { return delete event, kSuccess; }
inline Status event_record(Event event, Stream stream) {
  const auto mark = event->mark = std::make_shared<EmulatedEvent::Mark>();
  const auto now = [mark] { mark->at = std::chrono::steady_clock::now(); };
  if (!stream) return synchronize(), now(), kSuccess;
  stream->work.push_back(now);
  mark->stream = stream, mark->place = stream->end();
  return kSuccess;
}
inline Status stream_wait_event(Stream stream, Event event) {
  const auto wait = [mark = event->mark] { mark->wait(); };
  if (stream)
    stream->work.push_back(wait);
  else
    wait();
  return kSuccess;
}
inline Status event_seconds(Event begin, Event end, double* seconds) {
  end->mark->wait();
  return *seconds = std::chrono::duration<double>(end->mark->at - begin->mark->at).count(), kSuccess;
}

struct Properties {
  std::string name = "emulated GPU", arch = "wave" + std::to_string(TENON_EMULATED_WAVE);
  int multiprocessors = 1;
  bool pools = true, capable = true;
};
inline constexpr const char* kNeeds = "a newer card is needed";
inline Status properties(int index, Properties* out) { return out->capable = cards()[static_cast<size_t>(index)] == '+', kSuccess; }
inline std::string versions() { return "emulated on the CPU"; }

}  // namespace tenon::gpu
