// Exclusive use of a store while its folders and its catalog change together.
#pragma once

#include <string>

#include "core/files/posix_io.h"

namespace tenon {

class StoreLock {
 public:
  enum class Mode { kWrite, kRead };
  // Waits for its turn. kWrite makes the lock file; kRead does without where there is none, since then nobody has ever
  // written.
  StoreLock(const std::string& store, Mode mode);

 private:
  FileDescriptor fd_;
};

}  // namespace tenon
