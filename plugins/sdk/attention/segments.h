// The segments of a call, with or without a list: ranges checked once, then one form for every kernel.
#pragma once

#include <vector>

#include "sdk/base.h"
#include "tenon/attention.h"

namespace tenon::sdk {

struct Segment {
  int64_t q_begin, q_len, k_begin, k_len, q_pos, k_pos;
};

inline constexpr int64_t kMaxPosition = int64_t{1} << 48;  // keeps sums of positions and window sizes in range

// Without a list every batch entry is one segment. Query rows outside every segment become segments without keys, at
// the end of the list, so that a kernel that walks the list writes every row. Refuses ranges outside the tensors and
// overlapping query ranges.
inline std::vector<Segment> lower_segments(const tn_attention_shape& shape) {
  if (shape.batch < 0 || shape.t_q < 0 || shape.t_k < 0) fail(TN_E_ARGUMENT, "attention sizes must be 0 or more");
  std::vector<Segment> out;
  if (!shape.segments) {
    out.push_back({0, shape.t_q, 0, shape.t_k, shape.q_pos, shape.k_pos});
  } else {
    const tn_segments& s = *shape.segments;
    if (shape.batch != 1)
      fail(TN_E_ARGUMENT, "attention segments need batch = 1; the rows of all sequences are flattened");
    out.reserve(s.n);
    for (uint32_t i = 0; i < s.n; ++i)
      out.push_back({s.q_begin[i], s.q_len[i], s.k_begin[i], s.k_len[i], s.q_pos[i], s.k_pos[i]});
  }
  std::vector<char> taken(shape.segments ? static_cast<size_t>(shape.t_q) : 0);
  for (size_t i = 0; i < out.size(); ++i) {
    const Segment& s = out[i];
    const auto inside = [](int64_t begin, int64_t len, int64_t rows) {
      return begin >= 0 && len >= 0 && begin <= rows && len <= rows - begin;
    };
    const auto placed = [](int64_t pos) { return pos > -kMaxPosition && pos < kMaxPosition; };
    const std::string name = "attention segment " + std::to_string(i);
    if (!inside(s.q_begin, s.q_len, shape.t_q))
      fail(TN_E_ARGUMENT, name + " has query rows outside the " + std::to_string(shape.t_q) + " rows of q");
    if (!inside(s.k_begin, s.k_len, shape.t_k))
      fail(TN_E_ARGUMENT, name + " has key rows outside the " + std::to_string(shape.t_k) + " rows of k");
    if (!placed(s.q_pos) || !placed(s.k_pos)) fail(TN_E_ARGUMENT, name + " has a position of 2^48 or more");
    for (int64_t row = s.q_begin; !taken.empty() && row < s.q_begin + s.q_len; ++row) {
      if (taken[row])
        fail(TN_E_ARGUMENT, name + " repeats query row " + std::to_string(row) +
                                " of an earlier segment; query ranges must not overlap");
      taken[row] = 1;
    }
  }
  for (size_t row = 0, end; row < taken.size(); row = end) {
    for (end = row + 1; end < taken.size() && taken[end] == taken[row];) ++end;
    if (!taken[row]) out.push_back({static_cast<int64_t>(row), static_cast<int64_t>(end - row), 0, 0, 0, 0});
  }
  return out;
}

}  // namespace tenon::sdk
