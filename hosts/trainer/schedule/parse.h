// Memory options as a user writes them.
#pragma once

#include <string>

#include "hosts/trainer/schedule/options.h"

namespace tenon::trainer {

// `flash-cut, none for blocks 24-29`: a policy for all blocks, then exceptions. POLICY is none, block, flash-cut, keep:A+B (any of qkv, attention,
// middle, mlp), or, for all blocks, every-K. Throws Error naming the part that is wrong.
void parse_checkpointing(const std::string& text, MemoryOptions& memory);

// Options that exclude one another are refused in one sentence. checkpointing: whether the user asked for a policy.
void check_memory_options(const MemoryOptions& memory, bool checkpointing);

}  // namespace tenon::trainer
