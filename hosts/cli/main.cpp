// The program `tenon`: one command per file.
#include <malloc.h>

#include <array>
#include <cstdio>
#include <iostream>

#include "core/current_error.h"
#include "core/plugins/host.h"
#include "core/plugins/nearest.h"
#include "hosts/cli/arguments.h"
#include "hosts/cli/command.h"

namespace tenon::cli {
namespace {

constexpr std::array<Command, 15> kCommands{{
    {"train", "fine-tune or pre-train a model with any mix of plugins", run_train},
    {"eval", "loss and perplexity of a model on a text", run_eval},
    {"generate", "continue a prompt", run_generate},
    {"plan", "memory by category before a run, and what would fit", run_plan},
    {"check", "is this mix of plugins possible, and why not", run_check},
    {"compare", "train several mixes and set loss, memory and speed side by side", run_compare},
    {"merge", "merge an adapter into its model", run_merge},
    {"combine", "several adapters become one: weighted sums of their deltas", run_combine},
    {"quantize", "write a model with its weights quantized", run_quantize},
    {"tokenize", "the token ids of a text", run_tokenize},
    {"devices", "what computes here, and what each technique has for it", run_devices},
    {"plugin", "list, info, install, verify …; pack and sign your own", run_plugin},
    {"bench", "measure this machine and the parts of a step", run_bench},
    {"new-plugin", "a working plugin to start from, in C, C++ or Rust", run_new_plugin},
    {"conformance", "put a plugin through the conformance battery", run_conformance},
}};

void print_help(std::FILE* to) {
  std::fputs("tenon - memory-efficient LLM training as plugins\n\nUsage: tenon COMMAND [flags]      (tenon COMMAND --help explains a command)\n\n", to);
  for (const Command& c : kCommands) std::fprintf(to, "  %-12s %s\n", c.name, c.summary);
  std::fputs("\nA first run:\n  tenon train --model SmolLM2.gguf --data book.txt --adapter lora:r=16 --quantizer nf4 --output out\n", to);
}

int dispatch(const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h" || arguments[0] == "help") {
    print_help(arguments.empty() ? stderr : stdout);
    return arguments.empty() ? 2 : 0;
  }
  if (arguments[0] == "--version") {
    std::puts("tenon " TENON_VERSION);
    return 0;
  }
  std::vector<std::string> names;
  for (const Command& c : kCommands) {
    if (arguments[0] == c.name) return c.run({arguments.begin() + 1, arguments.end()});
    names.push_back(c.name);
  }
  throw Usage("there is no command " + arguments[0] + suggestion(arguments[0], names, "there are"));
}

}  // namespace
}  // namespace tenon::cli

int main(int argc, char** argv) {
  // Host-side buffers of a step come and go; keeping them costs less than returning them to the system each time. The first of these ends malloc's
  // own learning of the second, and a token's logits would be mapped, cleared and unmapped.
  mallopt(M_TRIM_THRESHOLD, 64 << 20);
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
  tenon::set_log_sink([](int32_t level, std::string_view line) {
    if (level >= TN_LOG_WARNING) std::fprintf(stderr, "tenon: %.*s\n", static_cast<int>(line.size()), line.data());
  });
  try {
    return tenon::cli::dispatch({argv + 1, argv + argc});
  } catch (const tenon::cli::Usage& e) {
    std::fprintf(stderr, "tenon: %s\n", e.what());
    return 2;
  } catch (...) {
    std::fprintf(stderr, "tenon: %s\n", tenon::current_error().what());
    return 1;
  }
}
