// A file mapped read-only into memory, so that models larger than memory can be read tensor by tensor.
#pragma once

#include <cstdint>
#include <string>

#include "core/files/bytes.h"

namespace tenon {

// The mapping keeps its address when the object is moved. Reading is [any-thread]. The file must not be truncated while
// it is mapped (the system would stop the process): whoever rewrites a model writes a new file and renames it, as
// AtomicFile does.
class MappedFile {
 public:
  // Throws one Error that names the path when it is missing, empty, a folder, not a regular file or unreadable.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::string& path() const { return path_; }
  uint64_t size() const { return bytes_.size(); }
  ByteSpan bytes() const { return bytes_; }

  // Gives the resident pages of [offset, offset + length) back to the system. The bytes stay readable: a later access
  // reads them from the file again. Call it after a tensor was copied to its device.
  void drop(uint64_t offset, uint64_t length) const noexcept;

 private:
  void unmap() noexcept;

  std::string path_;
  ByteSpan bytes_;
};

}  // namespace tenon
