#include "hosts/cli/run_self.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "core/error.h"

extern char** environ;

namespace tenon::cli {
namespace {

struct Pipe {
  int ends[2] = {-1, -1};
  Pipe() {
    if (pipe2(ends, O_CLOEXEC) != 0) throw Error(TN_E_IO, "no pipe could be made to a process of this program's own; close other programs");
  }
  ~Pipe() { shut(0), shut(1); }
  Pipe(const Pipe&) = delete;
  void shut(int end) {
    if (ends[end] >= 0) close(ends[end]);
    ends[end] = -1;
  }
};

// False at the end of what there is to read.
bool take(int from, std::string& into) {
  char piece[4096];
  ssize_t n;
  do n = read(from, piece, sizeof piece);
  while (n < 0 && errno == EINTR);
  if (n > 0) into.append(piece, static_cast<size_t>(n));
  return n > 0;
}

void hand_over_lines(std::string& text, const std::function<void(const std::string&)>& said, bool all) {
  for (size_t end; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) said(text.substr(0, end));
  if (all && !text.empty()) said(text);
}

}  // namespace

SelfRun run_self(const std::vector<std::string>& arguments, const std::function<void(const std::string&)>& said) {
  Pipe out, err;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, out.ends[1], STDOUT_FILENO);
  if (said) posix_spawn_file_actions_adddup2(&actions, err.ends[1], STDERR_FILENO);
  std::vector<char*> argv{const_cast<char*>("tenon")};
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, "/proc/self/exe", &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw Error(TN_E_IO, "no process of its own could be started for `tenon " + (arguments.empty() ? "" : arguments.front()) + "`; end other programs");
  out.shut(1), err.shut(1);

  SelfRun run;
  std::string lines;
  pollfd open[2] = {{out.ends[0], POLLIN, 0}, {err.ends[0], POLLIN, 0}};
  while (open[0].fd >= 0 || open[1].fd >= 0) {
    if (poll(open, 2, -1) < 0 && errno != EINTR) break;
    if (open[0].revents && !take(open[0].fd, run.output)) open[0].fd = -1;
    if (open[1].revents && !take(open[1].fd, lines)) open[1].fd = -1;
    if (said) hand_over_lines(lines, said, open[1].fd < 0);
    open[0].revents = open[1].revents = 0;
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  run.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return run;
}

}  // namespace tenon::cli
