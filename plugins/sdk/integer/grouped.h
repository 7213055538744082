// Weights [m, n] as integers on uniform grids: groups of inputs share a scale and a zero point, w = scale · (code − zero). What gptq and
// efficientqat store; grouped_codec.h decodes and multiplies it.
#pragma once

#include "sdk/codec.h"
#include "sdk/integer/bits.h"
#include "sdk/linalg/on_host.h"

namespace tenon::sdk {

// Sizes of a weight; the last axis of the target is the input, those before it are rows.
struct GroupedSizes {
  int64_t m = 0, n = 0, group = 1, groups = 0, code_row = 0, zero_row = 0;
  int bits = 4, scale_bits = 16;
  bool indexed = false;  // a group is no run of neighbouring inputs, so that every input names its own

  // group_size −1: the whole row.
  GroupedSizes(const tn_target& target, int bits, int64_t group_size) : bits(bits) {
    const int64_t all = elements(target);
    n = target.ndim > 0 ? target.shape[target.ndim - 1] : 1;
    m = n > 0 ? all / n : 0;
    group = group_size < 0 ? std::max<int64_t>(n, 1) : group_size;
    groups = ceil_div(n, group);
    code_row = row_bytes(n, bits), zero_row = row_bytes(groups, bits);
  }
  int64_t bytes() const { return m * (code_row + zero_row + scale_bits / 8 * groups) + (indexed ? 4 * n : 0); }
};

inline void declare_grouped(const tn_component_sink& sink, const GroupedSizes& s, uint32_t scale_flags = 0) {
  const uint32_t bits = static_cast<uint32_t>(s.bits);
  declare(sink, "codes", kU8, s.m * s.code_row, bits);
  declare(sink, "scales", s.scale_bits == 32 ? kF32 : kF16, s.m * s.groups, 0, scale_flags);
  declare(sink, "zeros", kU8, s.m * s.zero_row, bits);
  if (s.indexed) declare(sink, "g_idx", kI32, s.n);
}

// The components, typed and checked.
struct GroupedParts {
  uint8_t *codes, *zeros;  // [m, code_row], [m, zero_row] bytes
  f16* scales = nullptr;   // [m, groups], or
  float* wide = nullptr;   // the same in f32
  int32_t* g_idx = nullptr;  // [n], or null

  GroupedParts(const GroupedSizes& s, tn_tensor* const* components)
      : codes(component<uint8_t>(components, 0, "codes", s.m * s.code_row)),
        zeros(component<uint8_t>(components, 2, "zeros", s.m * s.zero_row)) {
    if (s.scale_bits == 32)
      wide = component<float>(components, 1, "scales", s.m * s.groups);
    else
      scales = component<f16>(components, 1, "scales", s.m * s.groups);
    if (!s.indexed) return;
    const tn_tensor* t = components[3];
    if (!t || !same(t->dtype, kI32) || count(*t) != s.n || !is_contiguous(*t))
      fail(TN_E_ARGUMENT, "component g_idx must be one int32 per input");
    g_idx = data<int32_t>(*t);
  }
  TN_FN float scale(int64_t i) const { return wide ? wide[i] : to_float(scales[i]); }
  TN_FN void put_scale(int64_t i, f16 scale) const {
    if (wide)
      wide[i] = to_float(scale);
    else
      scales[i] = scale;
  }
  TN_FN float zero(const GroupedSizes& s, int64_t row, int64_t group) const {
    return static_cast<float>(code_at(zeros + row * s.zero_row, group, s.bits));
  }
  TN_FN int64_t group_of(const GroupedSizes& s, int64_t j) const { return g_idx ? g_idx[j] : j / s.group; }
  // Files may hold anything. On a GPU this waits, where there is an index.
  void check_index(const tn_exec* exec, const tn_target& target, const GroupedSizes& s) const {
    if (!g_idx) return;
    OnHost<int32_t> group(exec, g_idx, s.n);
    for (int64_t j = 0; j < s.n; ++j)
      if (group[j] < 0 || group[j] >= s.groups)
        fail(TN_E_FORMAT, name_of(target) + ": input " + std::to_string(j) + " names group " + std::to_string(group[j]) + " of " +
                              std::to_string(s.groups) + "; the file is damaged");
  }
};

}  // namespace tenon::sdk
