#include "hosts/cli/stop_signals.h"

#include <pthread.h>

#include <csignal>
#include <initializer_list>
#include <thread>

namespace tenon::cli {
namespace {

std::atomic<bool> awaited{false}, requested{false};

// Whoever started the process may have had it ignore one of them, as a shell does with Ctrl-C for what runs in the
// background: that stays so.
const sigset_t& stop_set() {
  static const sigset_t set = [] {
    sigset_t s;
    sigemptyset(&s);
    for (const int signal : {SIGINT, SIGTERM}) {
      struct sigaction action;
      if (sigaction(signal, nullptr, &action) == 0 && action.sa_handler != SIG_IGN) sigaddset(&s, signal);
    }
    return s;
  }();
  return set;
}

void listen() {
  int signal = 0;
  while (sigwait(&stop_set(), &signal) == 0) {
    if (awaited && !requested.exchange(true)) continue;
    pthread_sigmask(SIG_UNBLOCK, &stop_set(), nullptr);
    std::raise(signal);  // its default action: the shell sees what ended the process
  }
}

}  // namespace

void take_stop_signals() {
  pthread_sigmask(SIG_BLOCK, &stop_set(), nullptr);
  std::thread(listen).detach();  // it waits as long as the process lives
}

const std::atomic<bool>& stop_requested() {
  awaited = true;
  return requested;
}

}  // namespace tenon::cli
