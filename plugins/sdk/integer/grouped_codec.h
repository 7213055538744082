// What a codec does with weights on uniform grids (grouped.h): the functions of tn_quantizer_api. For one source of a plugin: on a GPU each that sees
// this header compiles its kernels.
#pragma once

#if TN_GPU
#include "sdk/integer/grouped_gpu.h"
#else
#include "sdk/integer/grouped_cpu.h"
#endif

namespace tenon::sdk {

// dst = elements [begin, end) of the flattened weight; what quantizer_api.decode does.
inline void decode_grouped(const tn_exec* exec, const tn_target& target, const GroupedSizes& s, tn_tensor* const* components, int64_t begin,
                           int64_t end, tn_tensor& dst) {
  const GroupedParts parts(s, components);
  check_range(target, s.m * s.n, begin, end, dst);
  if (begin == end) return;
  parts.check_index(exec, target, s);
  grouped::decode(exec, s, parts, begin, end, dst);
}

// y = alpha · x Wᵀ + beta · y for few rows of x; what quantizer_api.linear does.
inline void multiply_grouped(const tn_exec* exec, const tn_target& target, const GroupedSizes& s, tn_tensor* const* components, const tn_tensor& x,
                             double alpha, double beta, tn_tensor& y) {
  const GroupedParts parts(s, components);
  const Product p(target, x, y, grouped::most_rows(target, s));
  parts.check_index(exec, target, s);
  grouped::multiply(exec, s, parts, p, x, alpha, beta, y);
}

// Fills `out` for one operation; false: ENCODE. `id` is the plugin's, for refusing a product of more rows than pay.
inline bool estimate_grouped(const char* id, const tn_target& target, const GroupedSizes& s, uint32_t op, int64_t rows, tn_estimate& out) {
  const int64_t state = s.bytes();
  if (op == TN_QUANTIZER_DECODE) {
    const double each = static_cast<double>(state) / static_cast<double>(std::max<int64_t>(s.m * s.n, 1)) + target.dtype.bits / 8.0;
    set_estimate(out, 2.0 * rows, each * rows, state);
    return true;
  }
  if (op == TN_QUANTIZER_ENCODE) return false;
  if (op != TN_QUANTIZER_LINEAR || target.ndim != 2 || rows > grouped::most_rows(target, s))
    fail(TN_E_UNSUPPORTED, std::string(id) + ": the fused product serves matrices and at most " + std::to_string(grouped::most_rows(target, s)) +
                               " rows of activations; decode and multiply instead");
  set_estimate(out, 2.0 * rows * s.m * s.n, static_cast<double>(state) + 4.0 * rows * (s.m + s.n), state, grouped::product_bytes(s, rows));
  return true;
}

}  // namespace tenon::sdk
