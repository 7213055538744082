#include "core/plugins/probe.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/posix_io.h"
#include "core/plugins/kinds.h"
#include "core/plugins/locations.h"
#include "core/plugins/manifest.h"

extern char** environ;

namespace tenon {
namespace {

constexpr int kAnswerFd = 3;
constexpr size_t kMostAnswer = 4 << 20;

struct Child {
  pid_t pid;
  FileDescriptor answer;
};

// The child has a process group of its own, no input and no output but the pipe, and takes every signal whatever this thread blocks.
Child start(const std::string& path) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw_io_error(path, "make a pipe to the probe of this object", errno);
  FileDescriptor read_end(ends[0]), write_end(ends[1]);
  // dup2 onto itself would keep the close-on-exec flag.
  if (write_end.get() == kAnswerFd) write_end = FileDescriptor(fcntl(ends[1], F_DUPFD_CLOEXEC, kAnswerFd + 1));

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, write_end.get(), kAnswerFd);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);

  const std::string program = probe_program();
  const char* const arguments[] = {program.c_str(), path.c_str(), nullptr};
  pid_t pid = -1;
  const int error = posix_spawn(&pid, program.c_str(), &actions, &attributes, const_cast<char**>(arguments), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw_io_error(program, "start the helper program", error);
  return {pid, std::move(read_end)};
}

// Reads until the child closes the pipe. False: the deadline passed, or it talks without end.
bool read_answer(int fd, std::chrono::steady_clock::time_point deadline, std::string& answer) {
  char piece[65536];
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd waiting = {fd, POLLIN, 0};
    const int ready = left <= 0 ? 0 : poll(&waiting, 1, static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    const ssize_t n = read(fd, piece, sizeof piece);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return true;
    answer.append(piece, static_cast<size_t>(n));
    if (answer.size() > kMostAnswer) return false;
  }
}

// Waits for a child that closed its pipe and should be about to end; the deadline holds here too.
int reap(pid_t pid, std::chrono::steady_clock::time_point deadline, bool& in_time) {
  int status = 0;
  for (;;) {
    const pid_t done = waitpid(pid, &status, in_time ? WNOHANG : 0);
    if (done == pid) break;
    if (done < 0 && errno != EINTR) break;
    if (in_time && std::chrono::steady_clock::now() >= deadline) {
      in_time = false;
      kill(-pid, SIGKILL);
    } else if (in_time) {
      usleep(1000);
    }
  }
  kill(-pid, SIGKILL);  // what it started and left behind
  return status;
}

ObjectDescription parse_description(const Json& json, const std::string& path) {
  ObjectDescription d;
  d.id = get_string(json, "id", path);
  d.version = get_string(json, "version", path);
  d.backend = get_string(json, "backend", path);
  d.kind = static_cast<uint32_t>(get_int(json, "kind", 0, 1000, path));
  const Json& abi = get_array(json, "abi", path);
  d.abi_major = abi.at(0).get<uint32_t>();
  d.abi_minor = abi.at(1).get<uint32_t>();
  d.hypers = parse_schema(get_array(json, "hypers", path), path);
  d.tags = get_array(json, "tags", path).get<std::vector<std::string>>();
  return d;
}

std::string seconds_text(std::chrono::milliseconds time) {
  return time.count() % 1000 == 0 ? std::to_string(time.count() / 1000) + " seconds"
                                  : std::to_string(time.count()) + " ms";
}

}  // namespace

Probe probe_object(const std::string& path, std::chrono::milliseconds timeout) {
  const std::string absolute = std::filesystem::absolute(path).string();
  const auto broken = [&](const std::string& why) { return Probe{Probe::Outcome::kBroken, path + ": " + why, {}}; };
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  Child child = start(absolute);
  std::string text;
  bool in_time = read_answer(child.answer.get(), deadline, text);
  const bool endless = text.size() > kMostAnswer;
  if (!in_time) kill(-child.pid, SIGKILL);
  const int status = reap(child.pid, deadline, in_time);

  if (endless) return broken("the plugin's description is larger than 4 MiB");
  if (!in_time) return broken("the plugin did not answer within " + seconds_text(timeout) + " and was stopped");
  if (WIFSIGNALED(status)) {
    return broken("the plugin crashed (" + std::string(strsignal(WTERMSIG(status))) +
                  ") when it was tried in a child process");
  }
  try {
    const Json json = parse_json(text, path, {.max_bytes = kMostAnswer, .max_values = 100'000, .max_depth = 16});
    if (const auto sentence = find_string(json, "error", path)) {
      const bool missing = get_int(json, "status", INT32_MIN, INT32_MAX, path) == TN_E_DEVICE;
      return {missing ? Probe::Outcome::kNotForHere : Probe::Outcome::kBroken, *sentence, {}};
    }
    return {Probe::Outcome::kSound, "", parse_description(json, path)};
  } catch (const std::exception&) {
    return broken("the plugin ended the process that tried it (exit status " + std::to_string(WEXITSTATUS(status)) +
                  ") instead of answering");
  }
}

}  // namespace tenon
