// Launches of the kernels on matrix units for one 16-bit type.
#pragma once

#include "sdk/attention/flash/gpu/plans.h"
#include "sdk/attention/flash/gpu/tiled.h"
#include "sdk/attention/flash/gpu/tiled_backward.h"
#include "sdk/attention/flash/gpu/tiled_forward.h"

namespace tenon::sdk::flash::gpu {

// Counts tiles of `rows` of what size(segment) answers; the numbers of first tiles go to the device where there are several segments.
template <class Size>
Tiling tiling(const tn_exec* exec, const std::vector<sdk::Segment>& segments, int64_t rows, int64_t* first, Size size) {
  std::vector<int64_t> numbers;
  int64_t count = 0;
  for (const sdk::Segment& s : segments) numbers.push_back(count), count += (size(s) + rows - 1) / rows;
  if (segments.size() > 1) sdk::copy_to_device(exec, numbers.data(), first, static_cast<int64_t>(numbers.size()));
  return {segments.size() > 1 ? first : nullptr, count};
}

template <class Kernel, class Tiles>
void launch(const tn_exec* exec, const Call& c, const Tiles& tiles, int64_t count) {
  const int64_t blocks = count * c.batch * c.kv_heads;
  if (blocks > 0) mma::launch_blocks(exec, blocks, Kernel::kThreads, mma::kReduceBytes + Kernel::kShared, Kernel{c, tiles});
}

// Kernels that own tiles of queries: forward, dQ.
template <class Kernel>
void launch_queries(const tn_exec* exec, const Call& c, const DensePlan& plan) {
  const int64_t group = c.heads / c.kv_heads;
  const Tiling tiles = tiling(exec, plan.segments(), Kernel::kRows, plan.query_tiles, [=](const sdk::Segment& s) { return s.q_len * group; });
  launch<Kernel>(exec, c, tiles, tiles.count);
}
template <class Kernel>
void launch_queries(const tn_exec* exec, const Call& c, const ListPlan& plan) {
  launch<Kernel>(exec, c, ListedTiles{plan.rows.device, plan.keys.device}, plan.rows.device.count);
}
// The one that owns tiles of keys: dK, dV.
template <class Kernel>
void launch_keys(const tn_exec* exec, const Call& c, const DensePlan& plan) {
  const Tiling tiles = tiling(exec, plan.segments(), Kernel::kRows, plan.key_tiles, [](const sdk::Segment& s) { return s.k_len; });
  launch<Kernel>(exec, c, tiles, tiles.count);
}
template <class Kernel>
void launch_keys(const tn_exec* exec, const Call& c, const ListPlan& plan) {
  launch<Kernel>(exec, c, ListedTiles{plan.rows.device, plan.keys.device}, plan.keys.device.count);
}

template <class Plan>
struct TilesOf;
template <>
struct TilesOf<DensePlan> {
  using Type = Tiling;
};
template <>
struct TilesOf<ListPlan> {
  using Type = ListedTiles;
};

template <class T, class Plan>
void Tiled<T, Plan>::forward(const tn_exec* exec, const Call& c, const Plan& plan) {
  using Tiles = typename TilesOf<Plan>::Type;
  c.d == 64 ? launch_queries<TiledForward<T, 64, Tiles>>(exec, c, plan) : launch_queries<TiledForward<T, 128, Tiles>>(exec, c, plan);
}
template <class T, class Plan>
void Tiled<T, Plan>::query_gradient(const tn_exec* exec, const Call& c, const Plan& plan) {
  using Tiles = typename TilesOf<Plan>::Type;
  c.d == 64 ? launch_queries<TiledQueryGradient<T, 64, Tiles>>(exec, c, plan) : launch_queries<TiledQueryGradient<T, 128, Tiles>>(exec, c, plan);
}
template <class T, class Plan>
void Tiled<T, Plan>::key_gradient(const tn_exec* exec, const Call& c, const Plan& plan) {
  using Tiles = typename TilesOf<Plan>::Type;
  c.d == 64 ? launch_keys<TiledKeyGradient<T, 64, Tiles>>(exec, c, plan) : launch_keys<TiledKeyGradient<T, 128, Tiles>>(exec, c, plan);
}

}  // namespace tenon::sdk::flash::gpu
