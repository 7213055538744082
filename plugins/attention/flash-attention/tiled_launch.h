// Launches of the kernels on matrix units for one 16-bit type.
#pragma once

#include "sdk/device_memory.h"
#include "tiled.h"
#include "tiled_backward.h"
#include "tiled_forward.h"

namespace tenon::flash {

// Counts tiles of `rows` of what size(segment) answers; the numbers of first tiles go to the device where there are several segments.
template <class Size>
Tiling tiling(const tn_exec* exec, const std::vector<sdk::Segment>& segments, int64_t rows, int64_t* first, Size size) {
  std::vector<int64_t> numbers;
  int64_t count = 0;
  for (const sdk::Segment& s : segments) numbers.push_back(count), count += (size(s) + rows - 1) / rows;
  if (segments.size() > 1) sdk::copy_to_device(exec, numbers.data(), first, static_cast<int64_t>(numbers.size()));
  return {segments.size() > 1 ? first : nullptr, count};
}

template <class Kernel>
void launch(const tn_exec* exec, const Call& c, const Tiling& tiles) {
  const int64_t blocks = tiles.count * c.batch * c.kv_heads;
  if (blocks > 0) mma::launch_blocks(exec, blocks, Kernel::kThreads, mma::kReduceBytes + Kernel::kShared, Kernel{c, tiles});
}

// Kernels that own tiles of queries: forward, dQ.
template <template <class, int> class Kernel, class T>
void launch_queries(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first) {
  const int64_t group = c.heads / c.kv_heads;
  const auto size = [=](const sdk::Segment& s) { return s.q_len * group; };
  if (c.d == 64)
    launch<Kernel<T, 64>>(exec, c, tiling(exec, segments, Kernel<T, 64>::kRows, first, size));
  else
    launch<Kernel<T, 128>>(exec, c, tiling(exec, segments, Kernel<T, 128>::kRows, first, size));
}
// The one that owns tiles of keys: dK, dV.
template <class T>
void launch_keys(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first) {
  const auto size = [](const sdk::Segment& s) { return s.k_len; };
  if (c.d == 64)
    launch<TiledKeyGradient<T, 64>>(exec, c, tiling(exec, segments, TiledKeyGradient<T, 64>::kRows, first, size));
  else
    launch<TiledKeyGradient<T, 128>>(exec, c, tiling(exec, segments, TiledKeyGradient<T, 128>::kRows, first, size));
}

// Instantiated in one source for each type.
template <class T>
void forward_of(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first);
template <class T>
void query_gradient_of(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first);
template <class T>
void key_gradient_of(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first);

}  // namespace tenon::flash
