#include "core/catalog/store_lock.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace tenon {

StoreLock::StoreLock(const std::string& store, Mode mode) {
  const std::string path = store + "/lock";
  const bool write = mode == Mode::kWrite;
  fd_ = FileDescriptor(open(path.c_str(), write ? O_RDWR | O_CREAT | O_CLOEXEC : O_RDONLY | O_CLOEXEC, 0666));
  if (!fd_) {
    if (!write) return;
    throw Error(TN_E_IO, store + ": the store cannot be written (" + std::strerror(errno) +
                             "); choose another with the environment variable TENON_HOME");
  }
  while (flock(fd_.get(), write ? LOCK_EX : LOCK_SH) != 0) {
    if (errno != EINTR) throw_io_error(path, "lock the store", errno);
  }
}

}  // namespace tenon
