// What stays the same while nobody touches a file: lets a digest be checked once instead of at every load.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace tenon {

// ctime cannot be set back by a program, so an altered file differs here even where its size and time were restored.
struct FileIdentity {
  int64_t bytes = 0, mtime = 0, ctime = 0, inode = 0;  // times in nanoseconds

  bool operator==(const FileIdentity&) const = default;
};

// None when there is no such regular file.
std::optional<FileIdentity> file_identity(const std::string& path);

}  // namespace tenon
