// Files that appear whole or not at all: a crash, a full disk or a kill leaves the old content, never half of the new
// one.
#pragma once

#include <cstdint>
#include <string>

#include "core/files/bytes.h"
#include "core/files/posix_io.h"

namespace tenon {

// Writes a temporary file beside the target and renames it over the target in commit(). Not thread-safe.
// A target that is a symbolic link is followed; one that is a device or a pipe (/dev/stdout) is written directly, since
// there is nothing to replace. A replaced file keeps its mode. Every failure throws one Error that names the path and
// the reason.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();  // Without a commit() the temporary file is removed and the target is untouched.
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;

  // Appends after the last write().
  void write(ByteSpan bytes);
  void write(std::string_view text) { write(as_bytes(text)); }

  // Writes at a position, in any order; independent of write().
  void write_at(uint64_t offset, ByteSpan bytes);

  // Sets the length, with zeros for what is not written yet, and claims the disk space now, so that a full disk is
  // known before hours of work and not after.
  void resize(uint64_t bytes);

  // Makes the content durable and visible under the target's name. At most once; nothing may be written afterwards.
  void commit();

  const std::string& path() const { return path_; }

 private:
  void discard() noexcept;

  std::string path_;
  std::string temporary_;  // Empty when the target is written directly, and after commit().
  FileDescriptor fd_;
};

// The whole of AtomicFile for content that is in memory.
void write_file_atomically(const std::string& path, ByteSpan bytes);
void write_file_atomically(const std::string& path, std::string_view text);

}  // namespace tenon
