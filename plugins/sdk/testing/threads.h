// Results must not depend on the number of OpenMP threads.
#pragma once

#include <omp.h>

namespace tenon::sdk::testing {

// Within its scope parallel regions have this many threads.
class Threads {
 public:
  explicit Threads(int n) : before_(omp_get_max_threads()) { omp_set_num_threads(n); }
  ~Threads() { omp_set_num_threads(before_); }
  Threads(const Threads&) = delete;

 private:
  int before_;
};

}  // namespace tenon::sdk::testing
