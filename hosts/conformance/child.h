// Work in a process of its own, with a deadline.
#pragma once

#include <chrono>
#include <functional>
#include <string>

namespace tenon::conformance {

struct ChildOutcome {
  bool answered = false;
  std::string answer;   // what `work` returned
  std::string ending;   // else: how the child ended, "crashed (Segmentation fault)"
  std::string printed;  // the start of what it wrote on standard output and standard error
};

// Forks, runs `work` in the child and hands its answer back. The child is a process group of its own without input,
// ends within `timeout` and leaves no core file; its exit handlers do not run.
ChildOutcome run_in_child(const std::function<std::string()>& work, std::chrono::milliseconds timeout);

}  // namespace tenon::conformance
