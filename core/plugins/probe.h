// Looking at a foreign object safely: it is loaded in a child process, which may crash, hang, exit or lie without harm.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "core/plugins/schema.h"

namespace tenon {

// What an object says about itself once it is loaded.
struct ObjectDescription {
  std::string id, version, backend;
  uint32_t kind = TN_KIND_UNDEFINED, abi_major = 0, abi_minor = 0;
  Schema hypers;
  std::vector<std::string>
      tags;  // from the capability bits of its table: "optimizer:one-at-a-time", "quantizer:weight", …
};

struct Probe {
  enum class Outcome {
    kSound,       // loaded, answered, and an instance with default parameters came and went
    kNotForHere,  // needs a library or a driver that this machine lacks; `sentence` says which
    kBroken       // refused, crashed, hung, exited or gave an unusable answer; `sentence` says what
  };
  Outcome outcome = Outcome::kBroken;
  std::string sentence;
  ObjectDescription description;  // of a sound object
};

// Runs tenon-probe on the object. Throws only where the child process itself cannot be started.
Probe probe_object(const std::string& path, std::chrono::milliseconds timeout = std::chrono::seconds(30));

// The child's side: loads the object, tries it, and writes one JSON document to the file descriptor. Answers the exit
// status.
int run_probe_child(const std::string& path, int answer_fd);

}  // namespace tenon
