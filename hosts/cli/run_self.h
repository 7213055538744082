// A command of this very program in a process of its own: its peak memory is its own, and its end ends nobody else.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace tenon::cli {

struct SelfRun {
  int status = 0;      // exit code; 128 + signal where one ended it
  std::string output;  // its standard output
};

// Runs `tenon ARGUMENTS...` to its end. Lines of its standard error go to `said` as they come; without it they go where ours go. Throws Error when
// no process can be made.
SelfRun run_self(const std::vector<std::string>& arguments, const std::function<void(const std::string& line)>& said = {});

}  // namespace tenon::cli
