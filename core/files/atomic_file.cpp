#include "core/files/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "core/error.h"

namespace tenon {
namespace {

// A rename replaces a link and not what it points to, so the link is resolved first.
std::string follow_link(const std::string& path) {
  struct stat status;
  if (::lstat(path.c_str(), &status) != 0 || !S_ISLNK(status.st_mode)) return path;
  char* resolved = ::realpath(path.c_str(), nullptr);
  if (resolved == nullptr) throw_io_error(path, "follow the link", errno);
  std::string target = resolved;
  std::free(resolved);
  return target;
}

}  // namespace

AtomicFile::AtomicFile(const std::string& path) : path_(follow_link(path)) {
  struct stat status;
  const bool exists = ::stat(path_.c_str(), &status) == 0;
  if ((exists && S_ISDIR(status.st_mode)) || path_.empty() || path_.back() == '/')
    throw_io_error(path_, "write", EISDIR);
  if (exists && !S_ISREG(status.st_mode)) {
    fd_ = FileDescriptor(::open(path_.c_str(), O_WRONLY | O_CLOEXEC));
    if (!fd_) throw_io_error(path_, "open for writing", errno);
    return;
  }
  // The suffix must fit into a file name also when the target's name is as long as names may be.
  const std::string suffix = unique_temporary_suffix();
  const std::string name = file_name_of(path_);
  if (name.size() > NAME_MAX) throw_io_error(path_, "write", ENAMETOOLONG);
  const std::string folder = path_.substr(0, path_.size() - name.size());
  temporary_ = folder + "." + name.substr(0, NAME_MAX - 1 - suffix.size()) + suffix;
  fd_ = FileDescriptor(::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!fd_) {
    const int error = errno;
    temporary_.clear();
    throw_io_error(path_, "write", error);
  }
  if (exists && ::fchmod(fd_.get(), status.st_mode & 07777) != 0) {
    const int error = errno;
    discard();
    throw_io_error(path_, "set the mode", error);
  }
}

AtomicFile::~AtomicFile() {
  discard();
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(other.path_), temporary_(std::exchange(other.temporary_, {})), fd_(std::move(other.fd_)) {}

void AtomicFile::write(ByteSpan bytes) {
  write_all(fd_.get(), bytes, path_);
}

void AtomicFile::write_at(uint64_t offset, ByteSpan bytes) {
  write_all_at(fd_.get(), offset, bytes, path_);
}

void AtomicFile::resize(uint64_t bytes) {
  if (temporary_.empty()) return;
  if (bytes > static_cast<uint64_t>(INT64_MAX))
    throw_io_error(path_, "grow to " + std::to_string(bytes) + " bytes", EFBIG);
  if (::ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0) {
    throw_io_error(path_, "grow to " + std::to_string(bytes) + " bytes", errno);
  }
#ifdef __linux__
  // Not every file system can claim space ahead; without it the write itself reports the full disk.
  if (bytes > 0 && ::fallocate(fd_.get(), 0, 0, static_cast<off_t>(bytes)) != 0 &&
      (errno == ENOSPC || errno == EDQUOT)) {
    throw_io_error(path_, "reserve " + std::to_string(bytes) + " bytes", errno);
  }
#endif
}

void AtomicFile::commit() {
  if (!fd_) throw Error(TN_E_STATE, path_ + ": the file was committed already; a defect, please report it");
  // Devices and pipes answer EINVAL or EROFS: they have nothing to make durable.
  if (::fsync(fd_.get()) != 0 && !temporary_.empty()) throw_io_error(path_, "make the data durable", errno);
  if (::close(fd_.release()) != 0) throw_io_error(path_, "close", errno);
  if (temporary_.empty()) return;
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw_io_error(path_, "replace", errno);
  temporary_.clear();
  sync_folder(folder_of(path_));
}

void AtomicFile::discard() noexcept {
  fd_.reset();
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  temporary_.clear();
}

void write_file_atomically(const std::string& path, ByteSpan bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void write_file_atomically(const std::string& path, std::string_view text) {
  write_file_atomically(path, as_bytes(text));
}

}  // namespace tenon
