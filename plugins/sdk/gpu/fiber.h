// One thread of control that gives way by hand: a stack of its own, and a switch between two of them. For the emulated GPU, which switches
// at every barrier of every thread, so that the system calls of swapcontext would be most of a test's time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace tenon::sdk::gpu {

class Fiber {
 public:
  static constexpr size_t kStack = 256 << 10;

  // The next resume() begins `entry`, which must never return: it ends with pause().
  void start(void (*entry)()) {
    if (!stack_) stack_.reset(new unsigned char[kStack]);
#if defined(__x86_64__)
    auto top = reinterpret_cast<uintptr_t>(stack_.get() + kStack) & ~uintptr_t{15};
    auto* frame = reinterpret_cast<uintptr_t*>(top) - 8;  // six registers, the entry, and nobody to return to
    for (int i = 0; i < 8; ++i) frame[i] = 0;
    frame[6] = reinterpret_cast<uintptr_t>(entry);
    mine_ = frame;
#else
    getcontext(&mine_);
    mine_.uc_stack.ss_sp = stack_.get(), mine_.uc_stack.ss_size = kStack, mine_.uc_link = nullptr;
    makecontext(&mine_, entry, 0);
#endif
  }
#if defined(__x86_64__)
  void resume() { exchange(&home_, mine_); }
  void pause() { exchange(&mine_, home_); }

 private:
  // Saves what a callee must preserve, changes stacks, restores.
  [[gnu::naked, gnu::noinline]] static void exchange(void**, void*) {
    asm volatile(
        "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
        "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
        "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
  }
  void *mine_ = nullptr, *home_ = nullptr;
#else
  void resume() { swapcontext(&home_, &mine_); }
  void pause() { swapcontext(&mine_, &home_); }

 private:
  ucontext_t mine_{}, home_{};
#endif
  std::unique_ptr<unsigned char[]> stack_;
};

}  // namespace tenon::sdk::gpu
