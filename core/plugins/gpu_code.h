// What GPU code a shared object carries, read from the file without loading it.
#pragma once

#include <string>
#include <vector>

#include "core/files/bytes.h"

namespace tenon {

struct GpuCode {
  std::vector<std::string> targets;  // "sm_80", "compute_90" (PTX), "gfx90a"; sorted, each once
  std::string runtime;               // what it was built against: "CUDA 13.0", "HIP 5.2"; "" where it does not say
};

// Fat binaries of CUDA, bundles of clang, and the SDK's note on the runtime. Damaged ones are read as far as they make sense.
GpuCode gpu_code(ByteSpan object);

}  // namespace tenon
