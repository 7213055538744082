// Products while signals arrive: see held_signals.h.
#include <pthread.h>
#include <sys/time.h>

#include <csignal>

#include "fixture.h"

namespace tenon::onednn::test {
namespace {

class Signals : public DeviceTest {};

volatile sig_atomic_t arrived = 0;
void count(int) {
  arrived = arrived + 1;
}

// While one of these lives, SIGALRM is handled thousands of times a second.
class Storm {
 public:
  Storm() {
    arrived = 0;
    struct sigaction action {};
    action.sa_handler = count;
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, &before_);
    const itimerval often = {{0, 50}, {0, 50}};
    setitimer(ITIMER_REAL, &often, nullptr);
  }
  ~Storm() {
    const itimerval never{};
    setitimer(ITIMER_REAL, &never, nullptr);
    sigaction(SIGALRM, &before_, nullptr);
  }

 private:
  struct sigaction before_;
};

// A weight gradient from few tokens, for which the library's kernel has its stack in a buffer of its own.
TEST_P(Signals, HandledDuringProductsLeaveTheHeapAsItIs) {
  for (const int n : {1, 2}) {
    const sdk::testing::Threads these(n);
    Tensor a(kF32, {96, 144}), b(kF32, {96, 80}), c(kF32, {144, 80});
    a.assign(std::vector<float>(a.size(), 0.5f)), b.assign(std::vector<float>(b.size(), 0.25f));
    View transposed(a.get()->data, kF32, {144, 96}, {1, 144});
    const tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b), 0, &transposed.tensor, b.get(), c.get(), nullptr, 1.0, 0.0, nullptr};
    {
      const Storm storm;
      // Blocks of the heap that come and go beside the library's buffers: what lies below those is in use.
      std::vector<std::vector<uint64_t>> blocks(64);
      for (int i = 0; arrived < 500 && i < 1'000'000; ++i) {
        auto& block = blocks[i % blocks.size()];
        for (const uint64_t word : block) ASSERT_EQ(word, 0x5a5a5a5a5a5a5a5au);
        block.assign(64 + i % 512, 0x5a5a5a5a5a5a5a5au);
        ASSERT_NO_FATAL_FAILURE(multiply(g));
      }
    }
    EXPECT_GE(arrived, 500);
    for (const float x : c.floats()) ASSERT_EQ(x, 12.0f);
  }
}

TEST_P(Signals, ReachTheCallerAfterItsProduct) {
  Tensor a(kF32, {128, 128}), b(kF32, {128, 128}), c(kF32, {128, 128});
  a.assign(std::vector<float>(a.size(), 1)), b.assign(std::vector<float>(b.size(), 1));
  sigset_t before, after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  multiply({TN_SIZE_TO(tn_gemm, packed_b), 0, a.get(), b.get(), c.get(), nullptr, 1.0, 0.0, nullptr});
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (int signal = 1; signal < SIGRTMIN; ++signal) EXPECT_EQ(sigismember(&before, signal), sigismember(&after, signal));
}

TENON_ON_EVERY_LEVEL(Signals);

}  // namespace
}  // namespace tenon::onednn::test
