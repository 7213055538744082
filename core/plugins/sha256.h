// SHA-256 digests of plugin objects, as 64 lower-case hexadecimal digits.
#pragma once

#include <string>

#include "core/files/bytes.h"

namespace tenon {

std::string sha256(ByteSpan bytes);

// Of a file's content, read in pieces. Throws one sentence that names the path.
std::string sha256_of_file(const std::string& path);

}  // namespace tenon
