// The extension org.tenon.runs/1 over a rule of sdk/optimizer.h that also has
//
//   void apply_run(const tn_exec*, const tn_item&, int64_t begin);
#pragma once

#include "sdk/optimizer.h"
#include "sdk/parameters.h"
#include "sdk/stored.h"
#include "tenon/runs.h"

namespace tenon::sdk {

// What apply_run may rely on; the run's elements.
inline int64_t check_run(const Parameters& parameters, const tn_item& item, int64_t begin) {
  const Parameters::Entry& e = parameters.at(item.uid);
  if (item.t < 1) fail(TN_E_ARGUMENT, "updates are counted from 1, an item came with t = " + std::to_string(item.t));
  const int64_t n = item.param ? count(*item.param) : -1;
  if (n < 0 || begin < 0 || begin % TN_RUN_ALIGNMENT != 0 || n > e.n - begin)
    fail(TN_E_ARGUMENT, "a run of " + std::to_string(n) + " elements from " + std::to_string(begin) + " does not fit a parameter of " + std::to_string(e.n));
  return n;
}

// A stored vector of a run draws what the whole would draw there.
inline Stored at_run(Stored s, int64_t begin) {
  s.first += static_cast<uint64_t>(begin);
  return s;
}

template <class T>
constexpr tn_runs runs_table() {
  using F = OptimizerThunks<T>;
  return {TN_SIZE_TO(tn_runs, apply), 0, [](tn_optimizer* self, const tn_exec* exec, const tn_item* item, int64_t begin) -> int32_t {
            return guard(F::of(self)->host, [&] { F::of(self)->rule.apply_run(exec, *item, begin); });
          }};
}

}  // namespace tenon::sdk
