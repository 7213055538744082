// The dynamic symbols that a shared object defines for others.
#pragma once

#include <string>
#include <vector>

namespace tenon::conformance {

// Names of exported functions and data. Symbols that linkers add on their own (_init, _edata, …) are left out. Throws
// tenon::Error for a file that is not a 64-bit little-endian ELF object or is damaged.
std::vector<std::string> exported_symbols(const std::string& path);

}  // namespace tenon::conformance
