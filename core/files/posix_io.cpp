#include "core/files/posix_io.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <random>
#include <system_error>

#include "core/error.h"

namespace tenon {
namespace {

std::string reason_of(int error) {
  switch (error) {
    case ENOENT:
      return "it or its folder does not exist; check the path";
    case EACCES:
    case EPERM:
      return "permission denied; check the owner and the mode of the file and its folder";
    case ENOSPC:
      return "no space is left on the disk; free some space or choose another folder";
    case EDQUOT:
      return "the disk quota is used up; free some space or choose another folder";
    case EFBIG:
      return "the file would be larger than the file system or the process limit allows; choose another folder or "
             "raise ulimit -f";
    case EROFS:
      return "the file system is read-only; choose another folder";
    case EISDIR:
      return "it is a folder; name a file";
    case ENOTDIR:
      return "a part of the path is a file and not a folder; check the path";
    case ENAMETOOLONG:
      return "the path is too long; choose a shorter one";
    case ELOOP:
      return "the symbolic links form a loop; check the path";
    case EMFILE:
    case ENFILE:
      return "too many files are open; raise ulimit -n";
    case EIO:
      return "the disk reports an error; check the disk";
    case EEXIST:
    case ENOTEMPTY:
      return "it exists already; remove it or choose another name";
    default:
      return std::generic_category().message(error);
  }
}

}  // namespace

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}

int FileDescriptor::release() {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

void FileDescriptor::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void throw_io_error(const std::string& path, std::string_view doing, int error) {
  const int32_t code = error == ENOENT                         ? TN_E_NOT_FOUND
                       : error == ENOMEM                       ? TN_E_MEMORY
                       : error == EEXIST || error == ENOTEMPTY ? TN_E_CONFLICT
                                                               : TN_E_IO;
  throw Error(code, path + ": cannot " + std::string(doing) + ": " + reason_of(error));
}

void write_all(int fd, ByteSpan bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), std::min<size_t>(bytes.size(), 1u << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_io_error(path, "write", errno);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void write_all_at(int fd, uint64_t offset, ByteSpan bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), std::min<size_t>(bytes.size(), 1u << 30), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_io_error(path, "write", errno);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

void sync_folder(const std::string& folder) {
  const FileDescriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) throw_io_error(folder, "open the folder", errno);
  // Some network file systems cannot sync a folder and say EINVAL; they order renames themselves.
  if (::fsync(fd.get()) != 0 && errno != EINVAL) throw_io_error(folder, "sync the folder", errno);
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string file_name_of(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

std::string unique_temporary_suffix() {
  static std::atomic<uint32_t> counter{0};
  thread_local std::random_device random;
  char text[64];
  std::snprintf(text, sizeof(text), ".tmp-%ld-%x-%08x", static_cast<long>(::getpid()), counter.fetch_add(1), random());
  return text;
}

}  // namespace tenon
