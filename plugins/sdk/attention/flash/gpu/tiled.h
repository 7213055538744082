// When a call goes to the kernels on matrix units, and the calls themselves: one source for each 16-bit type and kind of tiles, so that they
// compile beside each other.
#pragma once

#include <algorithm>
#include <vector>

#include "sdk/attention/flash/gpu/lists.h"
#include "sdk/gpu/instructions.h"

namespace tenon::sdk::flash::gpu {

// Whole pieces of 16 bytes can be copied.
inline bool is_aligned(const Rows& r) {
  return reinterpret_cast<uintptr_t>(r.data) % 16 == 0 && r.batch % 16 == 0 && r.token % 16 == 0 && r.head % 16 == 0;
}

// q, k and v of one 16-bit type, widths of 64 or 128, a positive scale; without soft cap and dropout. What does not fit takes the plain kernels.
inline bool fits_tiles(const tn_exec* exec, const Call& c) {
  const bool half = sdk::same(c.q.dtype, sdk::kBF16) || sdk::same(c.q.dtype, sdk::kF16);
  if (!half || !sdk::same(c.q.dtype, c.k.dtype) || !sdk::same(c.q.dtype, c.v.dtype) || c.d != c.e || (c.d != 64 && c.d != 128)) return false;
  if (c.cap != 0 || c.scale <= 0 || c.dropout.threshold != 0 || !is_aligned(c.q) || !is_aligned(c.k) || !is_aligned(c.v)) return false;
  const int64_t rows = c.t_q * (c.heads / c.kv_heads);  // rows and blocks are counted in 32 bits
  return rows < kMostRows && c.t_k < kMostRows && c.batch * c.kv_heads * (rows + c.t_k) < (int64_t{1} << 32) && sdk::gpu::has_matrix_units(exec);
}

// Every row of keys belongs to exactly one segment: each tile of keys can be written by one block.
inline bool keys_are_tiled(const std::vector<sdk::Segment>& segments, int64_t t_k) {
  std::vector<sdk::Run> runs;
  for (const sdk::Segment& s : segments)
    if (s.k_len > 0) runs.push_back({s.k_begin, s.k_begin + s.k_len});
  std::sort(runs.begin(), runs.end(), [](const sdk::Run& a, const sdk::Run& b) { return a.begin < b.begin; });
  int64_t at = 0;
  for (const sdk::Run& r : runs) {
    if (r.begin != at) return false;
    at = r.end;
  }
  return at == t_k;
}

// T: bf16 or f16. Plan: DensePlan or ListPlan (kernel.h), of the same pass.
template <class T, class Plan>
struct Tiled {
  static void forward(const tn_exec* exec, const Call& c, const Plan& plan);
  static void query_gradient(const tn_exec* exec, const Call& c, const Plan& plan);
  static void key_gradient(const tn_exec* exec, const Call& c, const Plan& plan);
};

}  // namespace tenon::sdk::flash::gpu
