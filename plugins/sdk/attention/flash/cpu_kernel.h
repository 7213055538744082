// Attention on the CPU: plans, workspace, schedules.
#pragma once

#include "sdk/attention/flash/backward_pairs.h"
#include "sdk/attention/flash/contract.h"

namespace tenon::sdk::flash {

// Threads never change results, only the size of the workspace: as many are used as fit into what the host gave.
template <class Memory, class Schedule>
uint64_t workspace_bytes(const Problem& p, const Schedule& s, int64_t threads) {
  Workspace count;
  Memory(count, p, s, threads);
  return count.peak();
}

template <class Memory, class Schedule>
int threads_that_fit(const char* id, const tn_exec& exec, const Problem& p, const Schedule& s, const char* pass) {
  int64_t threads = std::min<int64_t>(omp_get_max_threads(), s.max_tasks);
  while (threads > 1 && workspace_bytes<Memory>(p, s, threads) > exec.workspace_bytes) --threads;
  const uint64_t needed = workspace_bytes<Memory>(p, s, threads);
  if (needed > exec.workspace_bytes)
    fail(TN_E_ARGUMENT, std::string(id) + " " + pass + " needs a workspace of " + std::to_string(needed) +
                            " bytes but has " + std::to_string(exec.workspace_bytes) +
                            "; allocate what plan() answers");
  return static_cast<int>(threads);
}

// One forward pass, as a technique with a cache of its own makes it.
inline uint64_t forward_bytes(const Problem& p, const tn_device_api*, tn_device*) {
  const ForwardSchedule s(p);
  return workspace_bytes<ForwardMemory>(p, s, std::min<int64_t>(omp_get_max_threads(), s.max_tasks));
}
inline void run_forward(const char* id, const tn_exec& exec, const ForwardCall& forward) {
  const Problem& p = forward.problem;
  const ForwardSchedule schedule(p);
  const int threads = threads_that_fit<ForwardMemory>(id, exec, p, schedule, "forward");
  Workspace workspace(exec);
  const ForwardMemory memory(workspace, p, schedule, threads);
  if (schedule.split) return forward_split(forward, schedule, memory, threads);
#if defined(__AVX512BW__)
  if (takes_pairs(p, forward.dropout, {&forward.ports.q, &forward.ports.k, &forward.ports.v}))
    return forward_packed<PackedPairs>(forward, schedule, memory, threads);
#endif
  forward_packed<PackedFloats>(forward, schedule, memory, threads);
}

// A technique's kernel.
class Kernel : public Contract {
 public:
  using Contract::Contract;

  // A layer is planned for every token that is decoded: the device, which would read files of the system to answer, is
  // not asked how many threads there are.
  void plan(const tn_device_api* api, tn_device* device, const tn_attention_shape& shape,
            tn_attention_plan& out) const {
    require_dtype(shape.dtype);
    const Problem p(config(), shape, pattern_of(shape));
    const BackwardSchedule backward(p);
    const int64_t threads = omp_get_max_threads();
    out.tile_q = static_cast<uint32_t>(std::max<int64_t>(1, kTileRows / p.group));
    out.tile_k = kTileKeys;
    estimate(p, shape.dtype, forward_bytes(p, api, device),
             workspace_bytes<BackwardMemory>(p, backward, std::min(threads, backward.max_tasks)), out);
  }

  void forward(const tn_attention_call& call, const tn_attention_shape& shape, const tn_port_bind* const* binds,
               uint64_t n) const {
    const Problem p(config(), shape, pattern_of(shape));
    const ForwardCall forward = forward_call(p, call, shape, Ports(binds, n));
    if (p.batch == 0 || p.t_q == 0) return;
    run_forward(id(), *call.exec, forward);
  }

  void backward(const tn_attention_call& call, const tn_attention_shape& shape, const tn_port_bind* const* binds,
                uint64_t n) const {
    const Problem p(config(), shape, pattern_of(shape));
    const BackwardCall backward = backward_call(p, call, Ports(binds, n));
    if (p.batch == 0) return;
    const BackwardSchedule schedule(p);
    const int threads = threads_that_fit<BackwardMemory>(id(), *call.exec, p, schedule, "backward");
    Workspace workspace(*call.exec);
    const BackwardMemory memory(workspace, p, schedule, threads);
#if defined(__AVX512BW__)
    if (takes_pairs(p, backward.dropout,
                    {&backward.ports.q, &backward.ports.k, &backward.ports.v, &backward.ports.d_o}))
      return backward_all<PairProducts>(backward, schedule, memory, threads);
#endif
    backward_all<FloatProducts>(backward, schedule, memory, threads);
  }
};

}  // namespace tenon::sdk::flash
