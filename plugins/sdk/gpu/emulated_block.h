// A GPU on the CPU, for tests: every thread of a block is a fiber. The lanes of a wave meet at whatever they do together (an exchange, a
// matrix instruction); a wave runs on to the next barrier of the block before another wave does. What the threads of a GPU may not assume
// (each other's local arrays, an order within a phase, that other waves keep up, that an asynchronous copy has landed) goes wrong here as well.
#pragma once

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
    body_ = &body, count_ = n, copies_land_at_once_ = !copies_land_at_once_;
    for (int i = 0; i < n; ++i) all_[i]->copies.clear(), all_[i]->groups = 0, all_[i]->fiber.start(&Threads::enter);
    const int waves = (n + kWave - 1) / kWave;
    for (int round = 0;; ++round) {
      int finished = 0;
      for (int k = 0; k < waves; ++k)  // in changing order: there is none between barriers
        finished += run_wave(round % 2 ? waves - 1 - k : k, round) == At::kEnd;
      if (finished == waves) return;
      if (finished != 0) fail(TN_E_INTERNAL, "the waves of a block disagree about a barrier");
    }
  }
  void barrier() { pause(At::kBarrier); }
  void wave_barrier() { pause(At::kWaveBarrier); }
  int running() const { return running_; }
  int count() const { return count_; }
  unsigned char* mailbox(int thread) { return all_[thread]->mailbox; }

  // Asynchronous copies of a thread. They land at the last moment possible, in every other block at the first.
  void copy(void* to, const void* from, size_t n) {
    Thread& t = *all_[running_];
    t.copies.push_back({to, from, n, t.groups});
    if (copies_land_at_once_) land(t, t.groups + 1);
  }
  void end_group() { ++all_[running_]->groups; }
  void wait_groups(int pending) { land(*all_[running_], all_[running_]->groups - pending); }

  static Threads& mine() {
    static thread_local Threads threads;
    return threads;
  }

 private:
  enum class At { kWaveBarrier, kBarrier, kEnd };
  struct Copy {
    void* to;
    const void* from;  // null: zeros
    size_t n;
    int group;
  };
  struct Thread {
    Fiber fiber;
    alignas(16) unsigned char mailbox[16];
    At at;
    std::vector<Copy> copies;
    int groups;
  };
  static void land(Thread& t, int groups_before) {
    size_t kept = 0;
    for (const Copy& c : t.copies) {
      if (c.group >= groups_before) {
        t.copies[kept++] = c;
      } else if (c.from) {
        std::memcpy(c.to, c.from, c.n);
      } else {
        std::memset(c.to, 0, c.n);
      }
    }
    t.copies.resize(kept);
  }
  // Runs the lanes of a wave until all stand at a barrier of the block, or at their end.
  At run_wave(int wave, int round) {
    const int first = wave * kWave, n = count_ - first < kWave ? count_ - first : kWave;
    for (int turn = round;; ++turn) {
      int standing[3] = {};
      for (int k = 0; k < n; ++k) {
        running_ = first + (turn % 2 ? n - 1 - k : k);
        all_[running_]->fiber.resume();
        ++standing[static_cast<int>(all_[running_]->at)];
      }
      for (const At at : {At::kBarrier, At::kEnd})
        if (standing[static_cast<int>(at)] == n) return at;
      if (standing[static_cast<int>(At::kWaveBarrier)] != n) fail(TN_E_INTERNAL, "the threads of a block disagree about a barrier");
    }
  }
  void pause(At at) {
    Thread& t = *all_[running_];
    t.at = at;
    t.fiber.pause();
  }
  static void enter() {
    Threads& all = mine();
    (*all.body_)();
    all.pause(At::kEnd);  // for good
  }

  std::vector<std::unique_ptr<Thread>> all_;
  const std::function<void()>* body_ = nullptr;
  int running_ = 0, count_ = 1;
  bool copies_land_at_once_ = false;
};

inline int thread() { return Threads::mine().running(); }
inline int threads() { return Threads::mine().count(); }
inline void barrier() { Threads::mine().barrier(); }

template <class T>
T exchange(T x, int mask) {
  static_assert(sizeof(T) <= 16);
  Threads& all = Threads::mine();
  std::memcpy(all.mailbox(all.running()), &x, sizeof x);
  all.wave_barrier();
  T y;
  std::memcpy(&y, all.mailbox(all.running() ^ mask), sizeof y);
  all.wave_barrier();
  return y;
}
// What a wave does as one: every lane offers `mine`, and work, called once, reads and writes all of them.
template <class X, class Work>
void together(X& mine, Work work) {
  Threads& all = Threads::mine();
  X* const offered = &mine;
  std::memcpy(all.mailbox(all.running()), &offered, sizeof offered);
  all.wave_barrier();
  if (all.running() % kWave == 0) {
    X* lanes[kWave];
    for (int i = 0; i < kWave; ++i) std::memcpy(&lanes[i], all.mailbox(all.running() + i), sizeof lanes[i]);
    work(lanes);
  }
  all.wave_barrier();
}
inline int64_t forgotten(int64_t x) { return x; }
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
    struct alignas(1024) Kilobyte {
      unsigned char byte[1024];
    };
    std::vector<Kilobyte> memory(static_cast<size_t>(shared) / sizeof(Kilobyte) + 1);
    for (int64_t b = 0; b < blocks; ++b) {
      std::memset(memory.data(), 0xcd, static_cast<size_t>(shared));  // what an earlier block left means nothing
      Threads::mine().run(static_cast<int>(threads), [&] { body(b, memory.data()); });
    }
  });
}

}  // namespace tenon::sdk::gpu
