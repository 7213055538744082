// Attention on a GPU: plans, workspace, and which kernels a call takes.
#pragma once

#include "sdk/attention/flash/contract.h"
#include "sdk/attention/flash/gpu/plans.h"
#include "sdk/attention/flash/gpu/tiled.h"

namespace tenon::sdk::flash::gpu {

// What of the workspace a pass takes: the list of segments, what the plan uploads, and one number a row of queries.
template <class Plan>
struct Layout {
  sdk::Segment* segments = nullptr;
  float* delta = nullptr;
  uint64_t bytes = 0;
  Layout(sdk::Workspace memory, const Problem& p, Plan& plan, bool backward) {
    const int64_t n = static_cast<int64_t>(p.segments.size());
    if (n > 1) segments = memory.take<sdk::Segment>(n);
    plan.reserve(memory);
    if (backward) delta = memory.take<float>(p.batch * p.t_q * p.heads);
    bytes = memory.peak();
  }
};

template <class Plan>
uint64_t pass_bytes(const Problem& p, bool backward) {
  Plan plan(p, backward);
  return Layout<Plan>({}, p, plan, backward).bytes;
}

// Lays out the workspace and uploads what kernels read beside the tensors.
template <class Plan>
void prepare(const char* id, const tn_exec& exec, const Problem& p, Plan& plan, bool backward, Call& c) {
  const uint64_t needed = Layout<Plan>({}, p, plan, backward).bytes;
  if (needed > exec.workspace_bytes)
    sdk::fail(TN_E_ARGUMENT, std::string(id) + (backward ? " backward" : " forward") + " needs a workspace of " + std::to_string(needed) + " bytes but has " +
                                 std::to_string(exec.workspace_bytes) + "; allocate what plan() answers");
  const Layout<Plan> layout(needed ? sdk::Workspace(exec) : sdk::Workspace(), p, plan, backward);
  if (layout.segments) sdk::copy_to_device(&exec, p.segments.data(), layout.segments, static_cast<int64_t>(p.segments.size()));
  plan.upload(&exec);
  c.segments = layout.segments, c.delta = layout.delta;
}

template <class Plan>
void attend(const char* id, const tn_exec& exec, const ForwardCall& forward) {
  const Problem& p = forward.problem;
  Call c = lower(forward);
  Plan plan(p, false);
  prepare(id, exec, p, plan, false, c);
  if (fits_tiles(&exec, c) && (sdk::same(c.o.dtype, c.q.dtype) || sdk::same(c.o.dtype, sdk::kF32)))
    return (sdk::same(c.q.dtype, sdk::kBF16) ? Tiled<sdk::bf16, Plan>::forward : Tiled<sdk::f16, Plan>::forward)(&exec, c, plan);
  const auto plain = plan.plain(c);
  using Plain = Forward<typename Plan::Plain>;
  sdk::for_each_block<Plain::kShared>(&exec, plain.query_blocks, Plain{c, plain});
}

template <class Plan>
void attend_backward(const char* id, const tn_exec& exec, const BackwardCall& backward) {
  const Problem& p = backward.problem;
  Call c = lower(backward);
  Plan plan(p, true);
  prepare(id, exec, p, plan, true, c);
  const auto plain = plan.plain(c);
  sdk::for_each_block(&exec, c.batch * c.t_q * c.heads, Delta{c}, c.e);
  if (c.d_sink.data) sdk::for_each_block(&exec, c.heads, SinkGradient{c});
  const bool tiles = fits_tiles(&exec, c) && is_aligned(c.d_o) && sdk::same(c.d_o.dtype, c.q.dtype), bf16 = sdk::same(c.q.dtype, sdk::kBF16);
  if (tiles) {
    (bf16 ? Tiled<sdk::bf16, Plan>::query_gradient : Tiled<sdk::f16, Plan>::query_gradient)(&exec, c, plan);
  } else {
    using Plain = QueryGradient<typename Plan::Plain>;
    sdk::for_each_block<Plain::kShared>(&exec, plain.query_blocks, Plain{c, plain});
  }
  if (tiles && keys_are_tiled(p.segments, c.t_k)) {
    (bf16 ? Tiled<sdk::bf16, Plan>::key_gradient : Tiled<sdk::f16, Plan>::key_gradient)(&exec, c, plan);
  } else {
    using Plain = KeyGradient<typename Plan::Plain>;
    sdk::for_each_block<Plain::kShared>(&exec, plain.key_blocks, Plain{c, plain});
  }
}

// A technique's kernel.
template <class Plan>
class Kernel : public Contract {
 public:
  using Contract::Contract;

  void plan(const tn_device_api*, tn_device*, const tn_attention_shape& shape, tn_attention_plan& out) const {
    require_dtype(shape.dtype);
    const Problem p(config(), shape, pattern_of(shape));
    out.tile_q = 1, out.tile_k = kKeys;
    estimate(p, shape.dtype, pass_bytes<Plan>(p, false), pass_bytes<Plan>(p, true), out);
  }
  void forward(const tn_attention_call& call, const tn_attention_shape& shape, const tn_port_bind* const* binds, uint64_t n) const {
    const Problem p(config(), shape, pattern_of(shape));
    const ForwardCall forward = forward_call(p, call, shape, Ports(binds, n));
    if (p.batch > 0 && p.t_q > 0) attend<Plan>(id(), *call.exec, forward);
  }
  void backward(const tn_attention_call& call, const tn_attention_shape& shape, const tn_port_bind* const* binds, uint64_t n) const {
    const Problem p(config(), shape, pattern_of(shape));
    const BackwardCall backward = backward_call(p, call, Ports(binds, n));
    if (p.batch > 0) attend_backward<Plan>(id(), *call.exec, backward);
  }
};

}  // namespace tenon::sdk::flash::gpu

namespace tenon::sdk::flash {

using DenseKernel = gpu::Kernel<gpu::DensePlan>;
using PatternKernel = gpu::Kernel<gpu::ListPlan>;

// One forward pass over lists, as a technique with a cache of its own makes it.
inline uint64_t forward_bytes(const Problem& p, const tn_device_api*, tn_device*) { return gpu::pass_bytes<gpu::ListPlan>(p, false); }
inline void run_forward(const char* id, const tn_exec& exec, const ForwardCall& forward) { gpu::attend<gpu::ListPlan>(id, exec, forward); }

}  // namespace tenon::sdk::flash
