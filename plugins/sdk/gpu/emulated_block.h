// A GPU on the CPU, for tests: every thread of a block is a fiber that runs the functor to the next barrier, then the next one does. What the
// threads of a GPU may not assume (each other's local arrays, an order within a phase) goes wrong here as well.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "sdk/base.h"
#include "sdk/gpu/fiber.h"
#include "tenon/host.h"

namespace tenon::sdk::gpu {

inline constexpr int kWave = TENON_EMULATED_WAVE;

// What a tn_stream of the emulated device is. Device memory can be touched only while its work runs, which is when somebody waits for it.
struct EmulatedStream {
  void (*submit)(EmulatedStream*, std::function<void()> work);
};

class Threads {
 public:
  // Runs body once for every thread, from barrier to barrier.
  void run(int n, const std::function<void()>& body) {
    while (static_cast<int>(all_.size()) < n) all_.push_back(std::make_unique<Thread>());
    body_ = &body, count_ = n;
    for (int i = 0; i < n; ++i) all_[i]->done = false, all_[i]->fiber.start(&Threads::enter);
    for (int round = 0;; ++round) {
      int finished = 0;
      for (int k = 0; k < n; ++k) {  // in changing order: there is none within a phase
        running_ = round % 2 ? n - 1 - k : k;
        all_[running_]->fiber.resume();
        finished += all_[running_]->done;
      }
      if (finished == n) return;
      if (finished != 0) fail(TN_E_INTERNAL, "the threads of a block disagree about a barrier");
    }
  }
  void barrier() { all_[running_]->fiber.pause(); }
  int running() const { return running_; }
  int count() const { return count_; }
  unsigned char* mailbox(int thread) { return all_[thread]->mailbox; }

  static Threads& mine() {
    static thread_local Threads threads;
    return threads;
  }

 private:
  struct Thread {
    Fiber fiber;
    alignas(16) unsigned char mailbox[16];
    bool done = false;
  };
  static void enter() {
    Threads& all = mine();
    (*all.body_)();
    all.all_[all.running_]->done = true;
    all.barrier();  // for good
  }

  std::vector<std::unique_ptr<Thread>> all_;
  const std::function<void()>* body_ = nullptr;
  int running_ = 0, count_ = 1;
};

inline int thread() { return Threads::mine().running(); }
inline int threads() { return Threads::mine().count(); }
inline void barrier() { Threads::mine().barrier(); }

template <class T>
T exchange(T x, int mask) {
  static_assert(sizeof(T) <= 16);
  Threads& all = Threads::mine();
  std::memcpy(all.mailbox(all.running()), &x, sizeof x);
  all.barrier();
  T y;
  std::memcpy(&y, all.mailbox(all.running() ^ mask), sizeof y);
  all.barrier();
  return y;
}
inline void atomic_min(int64_t* at, int64_t x) {
  if (static_cast<uint64_t>(x) < static_cast<uint64_t>(*at)) *at = x;
}

// Queues work on the stream of a call, or does it at once where there is none.
inline void submit(const tn_exec* exec, std::function<void()> work) {
  if (!exec || !exec->stream) return work();
  EmulatedStream* const stream = reinterpret_cast<EmulatedStream*>(exec->stream);
  stream->submit(stream, std::move(work));
}

template <class Body>
void emulate(const tn_exec* exec, int64_t blocks, int64_t threads, int64_t shared, Body body) {
  submit(exec, [=] {
    std::vector<std::max_align_t> memory(static_cast<size_t>(shared) / sizeof(std::max_align_t) + 1);
    for (int64_t b = 0; b < blocks; ++b) {
      std::memset(memory.data(), 0xcd, static_cast<size_t>(shared));  // what an earlier block left means nothing
      Threads::mine().run(static_cast<int>(threads), [&] { body(b, memory.data()); });
    }
  });
}

}  // namespace tenon::sdk::gpu
