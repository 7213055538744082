// When a call goes to the kernels on matrix units, and the calls themselves: one source for bf16 and one for f16, so that they compile beside
// each other.
#pragma once

#include <algorithm>
#include <vector>

#include "gpu_kernels.h"

namespace tenon::flash {

// Whole pieces of 16 bytes can be copied.
inline bool is_aligned(const Rows& r) {
  return reinterpret_cast<uintptr_t>(r.data) % 16 == 0 && r.batch % 16 == 0 && r.token % 16 == 0 && r.head % 16 == 0;
}

// q, k and v of one 16-bit type, widths of 64 or 128, a positive scale; without soft cap and dropout. What does not fit takes the plain kernels.
bool fits_tiles(const Call& c);

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

// `first`: room in device memory for one number a segment, used where there are several.
void tiled_forward(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first);
void tiled_query_gradient(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first);
void tiled_key_gradient(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first);

}  // namespace tenon::flash
