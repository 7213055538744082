#include "core/files/atomic_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "core/files/posix_io.h"

namespace tenon {
namespace {

namespace fs = std::filesystem;

constexpr char kMark[] = ".tmp-";

void sync_file(const std::string& path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) throw_io_error(path, "open", errno);
  if (::fsync(fd.get()) != 0) throw_io_error(path, "make the data durable", errno);
}

// Files first, then the folder that names them.
void sync_tree(const std::string& folder) {
  std::error_code error;
  fs::directory_iterator entries(folder, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    const fs::file_status status = entries->symlink_status(error);
    if (error) break;
    if (fs::is_directory(status)) sync_tree(entries->path().string());
    if (fs::is_regular_file(status)) sync_file(entries->path().string());
  }
  if (error) throw_io_error(folder, "read the folder", error.value());
  sync_folder(folder);
}

std::string without_trailing_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

AtomicFolder::AtomicFolder(const std::string& target) : target_(without_trailing_slashes(target)) {
  const std::string name = file_name_of(target_);
  if (name.empty() || name == "." || name == "..") {
    throw Error(TN_E_ARGUMENT,
                quote_name(target) + " does not name a folder that can be made; give a path that ends in a name");
  }
  struct stat status;
  if (::lstat(target_.c_str(), &status) == 0 && !S_ISDIR(status.st_mode))
    throw_io_error(target_, "make the folder", EEXIST);
  const std::string temporary = target_ + unique_temporary_suffix();
  if (::mkdir(temporary.c_str(), 0777) != 0) throw_io_error(target_, "make the folder", errno);
  temporary_ = temporary;
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void AtomicFolder::commit() {
  publish(false);
}

void AtomicFolder::commit_replacing() {
  publish(true);
}

void AtomicFolder::publish(bool replace) {
  if (temporary_.empty())
    throw Error(TN_E_STATE, target_ + ": the folder was published already; a defect, please report it");
  sync_tree(temporary_);
  struct stat status;
  const bool exists = ::lstat(target_.c_str(), &status) == 0;
  std::string old;
  if (exists && replace) {
    old = temporary_;
    if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0) {
      old = target_ + unique_temporary_suffix();
      if (::rename(target_.c_str(), old.c_str()) != 0) throw_io_error(target_, "replace the folder", errno);
      if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
        const int why = errno;
        ::rename(old.c_str(), target_.c_str());  // what was there stays
        throw_io_error(target_, "publish the folder", why);
      }
    }
  } else if (exists) {
    throw_io_error(target_, "publish the folder", EEXIST);
  } else if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_NOREPLACE) != 0) {
    // EINVAL and ENOSYS: no RENAME_NOREPLACE here, and a plain rename still refuses a target that holds files.
    const bool plain = errno == EINVAL || errno == ENOSYS;
    if (!plain || ::rename(temporary_.c_str(), target_.c_str()) != 0)
      throw_io_error(target_, "publish the folder", errno);
  }
  temporary_.clear();
  sync_folder(folder_of(target_));
  if (old.empty()) return;
  std::error_code error;
  fs::remove_all(old, error);
  if (error) throw_io_error(old, "remove the replaced folder", error.value());
}

bool is_temporary_name(const std::string& name) {
  const size_t mark = name.rfind(kMark);
  if (mark == std::string::npos || mark == 0) return false;
  // PID-COUNTER-RANDOM: digits, then two runs of hexadecimal digits.
  int dashes = 0;
  for (size_t i = mark + sizeof(kMark) - 1; i < name.size(); ++i) {
    const char c = name[i];
    if (c == '-') {
      ++dashes;
    } else if (!((c >= '0' && c <= '9') || (dashes > 0 && c >= 'a' && c <= 'f'))) {
      return false;
    }
  }
  return dashes == 2;
}

}  // namespace tenon
