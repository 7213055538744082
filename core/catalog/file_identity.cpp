#include "core/catalog/file_identity.h"

#include <sys/stat.h>

namespace tenon {

std::optional<FileIdentity> file_identity(const std::string& path) {
  struct stat s;
  if (stat(path.c_str(), &s) != 0 || !S_ISREG(s.st_mode)) return std::nullopt;
  const auto nanoseconds = [](const timespec& t) { return static_cast<int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec; };
  return FileIdentity{s.st_size, nanoseconds(s.st_mtim), nanoseconds(s.st_ctim), static_cast<int64_t>(s.st_ino)};
}

}  // namespace tenon
