// Why no signal may arrive while the library multiplies in f32.
#pragma once

#include <csignal>

namespace tenon::onednn {

// The library's f32 kernels without copies (dnnl_sgemm, and the matmul primitive where it has nothing better) point the
// stack into a buffer on the heap while they run, once the sum is longer than about 84. The frame of a signal that is
// handled then, three to eleven kilobytes, overwrites whatever lies below that buffer, in the thread that called or in
// a worker. So signals wait while one of these lives: those of the calling thread are held and let go again, and the
// workers of its OpenMP team, whose only business is to compute, hold theirs for good. (A worker that is started later
// by other code of the same thread inherits that thread's mask. Programs that use the toolkit with handlers of their own
// and resize their teams are safest with a thread that waits for signals and no handler elsewhere.)
// Faults of the thread itself (SIGSEGV, SIGFPE, SIGBUS, SIGILL, SIGTRAP) are not held.
class HeldSignals {
 public:
  HeldSignals();
  ~HeldSignals();
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace tenon::onednn
