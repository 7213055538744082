#include "devices/onednn/held_signals.h"

#include <omp.h>
#include <pthread.h>

#include <initializer_list>

namespace tenon::onednn {
namespace {

const sigset_t& held() {
  static const sigset_t set = [] {
    sigset_t s;
    sigfillset(&s);
    for (const int fault : {SIGSEGV, SIGFPE, SIGBUS, SIGILL, SIGTRAP}) sigdelset(&s, fault);
    return s;
  }();
  return set;
}

}  // namespace

HeldSignals::HeldSignals() {
  pthread_sigmask(SIG_BLOCK, &held(), &before_);
  thread_local int holding = 1;  // threads of this one's team that hold theirs
  const int threads = omp_in_parallel() ? 1 : omp_get_max_threads();
  if (threads <= holding) return;
#pragma omp parallel num_threads(threads)
  pthread_sigmask(SIG_BLOCK, &held(), nullptr);
  holding = threads;
}

HeldSignals::~HeldSignals() {
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

}  // namespace tenon::onednn
