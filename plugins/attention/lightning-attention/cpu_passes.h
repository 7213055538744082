// The passes on the CPU. Threads never change results, only the size of the workspace: as many are used as fit into what the host gave.
#pragma once

#include "backward.h"

namespace tenon::lightning {

template <class Memory, class Schedule>
uint64_t bytes_of(const Problem& p, const Schedule& s, int64_t threads) {
  sdk::Workspace count;
  Memory(count, p, s, threads);
  return count.peak();
}
template <class Memory, class Schedule>
uint64_t bytes_planned(const Problem& p, const Schedule& s) {
  return bytes_of<Memory>(p, s, std::min<int64_t>(omp_get_max_threads(), s.max_tasks));
}
template <class Memory, class Schedule>
int threads_that_fit(const tn_exec& exec, const Problem& p, const Schedule& s) {
  int64_t threads = std::min<int64_t>(omp_get_max_threads(), s.max_tasks);
  while (threads > 1 && bytes_of<Memory>(p, s, threads) > exec.workspace_bytes) --threads;
  return static_cast<int>(threads);  // with one the workspace itself refuses what is too small
}

inline uint64_t forward_bytes(const Problem& p, tn_dtype, const tn_device_api*, tn_device*) {
  return bytes_planned<ForwardMemory>(p, ForwardSchedule(p));
}
inline uint64_t backward_bytes(const Problem& p, tn_dtype, const tn_device_api*, tn_device*) {
  return bytes_planned<BackwardMemory>(p, BackwardSchedule(p));
}

inline void run_forward(const tn_exec& exec, const Problem& p, tn_dtype, const ForwardPorts& f) {
  if (p.is_one_token(f)) {
    const int64_t bytes = p.batch * p.heads * p.d * p.e * 4;
    return decode_token(p, f, bytes > 65536 ? static_cast<int>(std::min<int64_t>(omp_get_max_threads(), p.batch * p.heads)) : 1);
  }
  const ForwardSchedule schedule(p);
  const int threads = threads_that_fit<ForwardMemory>(exec, p, schedule);
  sdk::Workspace workspace(exec);
  const ForwardMemory memory(workspace, p, schedule, threads);
  forward_all(p, f, schedule, memory, threads);
}
inline void run_backward(const tn_exec& exec, const Problem& p, tn_dtype, const BackwardPorts& b) {
  const BackwardSchedule schedule(p);
  const int threads = threads_that_fit<BackwardMemory>(exec, p, schedule);
  sdk::Workspace workspace(exec);
  const BackwardMemory memory(workspace, p, schedule, threads);
  backward_all(p, b, schedule, memory, threads);
}

}  // namespace tenon::lightning
