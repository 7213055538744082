// The kernels on matrix units for bf16, and the choice between them and those for f16.
#include "tiled_launch.h"

namespace tenon::flash {

template <>
void forward_of<sdk::bf16>(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first) {
  launch_queries<TiledForward, sdk::bf16>(exec, c, segments, first);
}
template <>
void query_gradient_of<sdk::bf16>(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first) {
  launch_queries<TiledQueryGradient, sdk::bf16>(exec, c, segments, first);
}
template <>
void key_gradient_of<sdk::bf16>(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first) {
  launch_keys<sdk::bf16>(exec, c, segments, first);
}
template <>
void forward_of<sdk::f16>(const tn_exec*, const Call&, const std::vector<sdk::Segment>&, int64_t*);
template <>
void query_gradient_of<sdk::f16>(const tn_exec*, const Call&, const std::vector<sdk::Segment>&, int64_t*);
template <>
void key_gradient_of<sdk::f16>(const tn_exec*, const Call&, const std::vector<sdk::Segment>&, int64_t*);

bool fits_tiles(const Call& c) {
  const bool half = sdk::same(c.q.dtype, sdk::kBF16) || sdk::same(c.q.dtype, sdk::kF16);
  if (!half || !sdk::same(c.q.dtype, c.k.dtype) || !sdk::same(c.q.dtype, c.v.dtype) || c.d != c.e || (c.d != 64 && c.d != 128)) return false;
  if (c.cap != 0 || c.scale <= 0 || c.dropout.threshold != 0 || !is_aligned(c.q) || !is_aligned(c.k) || !is_aligned(c.v)) return false;
  const int64_t rows = c.t_q * (c.heads / c.kv_heads);  // rows and blocks are counted in 32 bits
  return rows < kMostRows && c.t_k < kMostRows && c.batch * c.kv_heads * (rows + c.t_k) < (int64_t{1} << 32) && mma::has_matrix_units();
}

void tiled_forward(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first) {
  (sdk::same(c.q.dtype, sdk::kBF16) ? forward_of<sdk::bf16> : forward_of<sdk::f16>)(exec, c, segments, first);
}
void tiled_query_gradient(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first) {
  (sdk::same(c.q.dtype, sdk::kBF16) ? query_gradient_of<sdk::bf16> : query_gradient_of<sdk::f16>)(exec, c, segments, first);
}
void tiled_key_gradient(const tn_exec* exec, const Call& c, const std::vector<sdk::Segment>& segments, int64_t* first) {
  (sdk::same(c.q.dtype, sdk::kBF16) ? key_gradient_of<sdk::bf16> : key_gradient_of<sdk::f16>)(exec, c, segments, first);
}

}  // namespace tenon::flash
