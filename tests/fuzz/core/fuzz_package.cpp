// Packages from strangers: any bytes end in a checked package or in one Error of one line, and write nothing outside of
// the folder that they are unpacked into.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/error.h"
#include "core/packages/package.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace fs = std::filesystem;
  static const std::string top = [] {
    std::string name = (fs::temp_directory_path() / "tenon-fuzz-XXXXXX").string();
    return mkdtemp(name.data()) ? name : std::string();
  }();
  const std::string folder = top + "/unpacked";
  const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  if (top.empty() || fd < 0) return 0;
  fs::create_directory(folder);
  if (write(fd, data, size) == static_cast<ssize_t>(size)) {
    try {
      (void)tenon::unpack("/proc/self/fd/" + std::to_string(fd), folder);
    } catch (const tenon::Error& e) {
      if (std::string(e.what()).find('\n') != std::string::npos) std::abort();
    }
  }
  close(fd);
  for (const auto& entry : fs::directory_iterator(folder))
    if (!fs::is_regular_file(entry.symlink_status())) std::abort();
  fs::remove_all(folder);
  if (!fs::is_empty(top)) std::abort();
  return 0;
}
