// The look at a shared object before it is loaded: any bytes end in an architecture or in one Error.
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "core/error.h"
#include "core/plugins/elf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  if (fd < 0) return 0;
  if (write(fd, data, size) == static_cast<ssize_t>(size)) {
    try {
      (void)tenon::object_arch("/proc/self/fd/" + std::to_string(fd));
    } catch (const tenon::Error&) {
    }
  }
  close(fd);
  return 0;
}
