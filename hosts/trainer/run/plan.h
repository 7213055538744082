// The memory forecast: the run's own code on a dry engine.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/memory/memory.h"
#include "hosts/trainer/run/runtime.h"

namespace tenon::trainer {

struct RunShape {
  int64_t batch = 1, sequence = 0;
  bool evaluates = false;  // held-out evaluation happens in the run
  int64_t steps = 1;       // of the run, as far as known
};

// What a run holds on the device and, at most, outside of its memory (--act-offload, --zero-offload).
struct RunMemory : MemoryUse {
  uint64_t offloaded = 0;
};

// What such a run allocates: model, states and one step. Nothing is allocated on the device and no weight is read.
RunMemory plan_run(const Runtime& runtime, const ModelSource& source, const SessionOptions& options, const RunShape& shape, tn_dtype compute);

// One way to need less memory than asked for: the flags to add or change, and what the run needs then.
struct Alternative {
  std::string flags;
  uint64_t bytes = 0;
};

// Ways to fit into `limit`, mildest first; when nothing fits, only the smallest that was found, with its bytes over the limit.
std::vector<Alternative> what_would_fit(const Runtime& runtime, const ModelSource& source, const SessionOptions& options, const RunShape& shape,
                                        tn_dtype compute, uint64_t limit);

// The longest sequence with which such a run fits into `limit`, to 16 tokens or a 128th of it; 0: none does. Of shape, the sequence is not looked at.
int64_t longest_sequence(const Runtime& runtime, const ModelSource& source, const SessionOptions& options, const RunShape& shape, tn_dtype compute,
                         uint64_t limit);

// The same for schedules that change no number beside the one asked for, plainest first.
struct LongestWith {
  std::string flags;
  int64_t tokens = 0;
};
std::vector<LongestWith> longest_by_schedule(const Runtime& runtime, const ModelSource& source, const SessionOptions& options, const RunShape& shape,
                                             tn_dtype compute, uint64_t limit);

// Rows of one evaluation pass: about a thousand tokens at a time.
int64_t evaluation_rows(int64_t sequence);

}  // namespace tenon::trainer
