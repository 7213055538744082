// The system calls that the file classes share, with errors turned into sentences. For use inside core/files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/files/bytes.h"

namespace tenon {

// Owns a file descriptor; -1 is "none".
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() { reset(); }
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release();
  void reset();

 private:
  int fd_ = -1;
};

// Throws one sentence: "PATH: cannot DOING: REASON". `error` is an errno value.
[[noreturn]] void throw_io_error(const std::string& path, std::string_view doing, int error);

// Writes all of `bytes`, at the file position or at `offset`, over as many calls as it takes. `path` is for the
// message.
void write_all(int fd, ByteSpan bytes, const std::string& path);
void write_all_at(int fd, uint64_t offset, ByteSpan bytes, const std::string& path);

// Makes the entries of a folder durable: a rename survives a power cut only after this.
void sync_folder(const std::string& folder);

// The folder that holds `path` ("." for a bare name), and the last component of `path`.
std::string folder_of(const std::string& path);
std::string file_name_of(const std::string& path);

// ".tmp-" and a suffix that no other process, thread or earlier call on this machine uses.
std::string unique_temporary_suffix();

}  // namespace tenon
