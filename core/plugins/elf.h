// A look at a shared object before the dynamic loader gets it.
#pragma once

#include <string>

namespace tenon {

// The architecture of this process: "x86_64", "aarch64", "riscv64", "ppc64".
std::string host_arch();

// The architecture that the shared object at `path` was built for. Throws one sentence when it is not a 64-bit
// little-endian ELF shared object, or when a segment lies beyond the end of the file (loading such a file would end the
// process).
std::string object_arch(const std::string& path);

}  // namespace tenon
