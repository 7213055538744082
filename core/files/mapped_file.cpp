#include "core/files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/error.h"
#include "core/files/posix_io.h"

namespace tenon {

MappedFile::MappedFile(const std::string& path) : path_(path) {
  // Without O_NONBLOCK, opening a pipe would wait for its writer for ever.
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) throw_io_error(path, "open", errno);
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) throw_io_error(path, "read", errno);
  if (S_ISDIR(status.st_mode)) throw_io_error(path, "read", EISDIR);
  if (!S_ISREG(status.st_mode))
    throw Error(TN_E_IO, path + ": it is a device or a pipe and not a regular file; name a file");
  if (status.st_size == 0) throw Error(TN_E_FORMAT, path + ": the file is empty (0 bytes); download or write it again");
  const auto size = static_cast<size_t>(status.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (address == MAP_FAILED) throw_io_error(path, "map " + std::to_string(size) + " bytes", errno);
  bytes_ = {static_cast<const std::byte*>(address), size};
}

MappedFile::~MappedFile() {
  unmap();
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, ByteSpan())) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap();
    path_ = std::move(other.path_);
    bytes_ = std::exchange(other.bytes_, ByteSpan());
  }
  return *this;
}

void MappedFile::drop(uint64_t offset, uint64_t length) const noexcept {
  if (offset >= bytes_.size() || length == 0) return;
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t end = offset + std::min<uint64_t>(length, bytes_.size() - offset);
  const uint64_t begin = offset / page * page;
  ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, MADV_DONTNEED);
}

void MappedFile::unmap() noexcept {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  bytes_ = {};
}

}  // namespace tenon
