#include "hosts/conformance/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/files/posix_io.h"

namespace tenon::conformance {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void be_child(const std::function<std::string()>& work, int answer_fd, int print_fd) {
  setpgid(0, 0);
  const rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(nothing, 0), dup2(print_fd, 1), dup2(print_fd, 2);
  const std::string answer = work();
  std::fflush(stdout);
  std::fflush(stderr);
  write_all(answer_fd, as_bytes(answer), "the answer of a check");
  _exit(0);
}

// Reads until the child closes the pipe. False: the deadline passed.
bool read_all(int fd, Clock::time_point deadline, std::string& out) {
  char piece[4096];
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd waiting = {fd, POLLIN, 0};
    const int ready = left <= 0 ? 0 : poll(&waiting, 1, static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    const ssize_t n = read(fd, piece, sizeof piece);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return true;
    out.append(piece, static_cast<size_t>(n));
  }
}

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status)) return "crashed (" + std::string(strsignal(WTERMSIG(status))) + ")";
  return "ended the process (exit status " + std::to_string(WEXITSTATUS(status)) + ")";
}

}  // namespace

ChildOutcome run_in_child(const std::function<std::string()>& work, std::chrono::milliseconds timeout) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw_io_error("a check", "make a pipe", errno);
  FileDescriptor read_end(ends[0]), write_end(ends[1]);
  const FileDescriptor printed(memfd_create("printed", MFD_CLOEXEC));
  if (!printed) throw_io_error("a check", "make a file in memory", errno);
  std::fflush(nullptr);  // else the child would write what waits in our buffers once more
  const auto deadline = Clock::now() + timeout;
  const pid_t pid = fork();
  if (pid < 0) throw_io_error("a check", "start a process", errno);
  if (pid == 0) be_child(work, write_end.get(), printed.get());
  write_end.reset();

  ChildOutcome out;
  const bool in_time = read_all(read_end.get(), deadline, out.answer);
  // A group exists once the child made it; the child itself is ended by its own id in any case.
  if (!in_time) kill(-pid, SIGKILL), kill(pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  kill(-pid, SIGKILL);  // what it started and left behind
  out.answered = in_time && WIFEXITED(status) && WEXITSTATUS(status) == 0 && !out.answer.empty();
  if (!out.answered)
    out.ending =
        in_time ? how_it_ended(status)
                : "did not come back within " + std::to_string(timeout.count() / 1000) + " seconds and was stopped";
  out.printed.resize(400);
  const ssize_t n = pread(printed.get(), out.printed.data(), out.printed.size(), 0);
  out.printed.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return out;
}

}  // namespace tenon::conformance
