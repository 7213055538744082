// What this machine is: name, instruction sets, memory.
#pragma once

#include <cstdint>
#include <string>

namespace tenon::onednn {

struct SystemMemory {
  uint64_t total_bytes, free_bytes;
};

// The processor's own name, "AMD EPYC 9655".
const std::string& cpu_name();
// The psABI level with what matters for products: "x86-64-v4+bf16", "x86-64-v3".
const std::string& cpu_arch();
// Size of the last-level cache; 32 MB where the processor does not say.
uint64_t last_cache_bytes();
// The machine's memory, or the control group's limit where that is lower. Free counts caches that the kernel would
// drop.
SystemMemory system_memory();

}  // namespace tenon::onednn
