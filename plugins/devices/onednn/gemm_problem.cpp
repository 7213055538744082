#include "devices/onednn/gemm_problem.h"

#include <omp.h>

#include <utility>

#include "devices/ops/view.h"

namespace tenon::onednn {
namespace {

using sdk::fail;

Storage storage_of(const tn_tensor& t, const char* name) {
  if (sdk::same(t.dtype, sdk::kF32)) return Storage::kF32;
  if (sdk::same(t.dtype, sdk::kBF16)) return Storage::kBF16;
  if (sdk::same(t.dtype, sdk::kF16)) return Storage::kF16;
  fail(TN_E_UNSUPPORTED, std::string("gemm: ") + name + " must be f32, bf16 or f16");
}

void check_shapes(const tn_tensor& a, const tn_tensor& b, const tn_tensor& c) {
  const auto refuse = [&] {
    fail(TN_E_ARGUMENT, "gemm: A " + ops::shape_text(a) + ", B " + ops::shape_text(b) + " and C " + ops::shape_text(c) +
                            " do not form a product C = A · B");
  };
  if (a.ndim < 2 || b.ndim < 2 || c.ndim < 2 || a.ndim > c.ndim || b.ndim > c.ndim) refuse();
  const auto back = [](const tn_tensor& t, int32_t i) { return t.shape[t.ndim - i]; };
  if (back(a, 2) != back(c, 2) || back(b, 1) != back(c, 1) || back(a, 1) != back(b, 2)) refuse();
  for (int32_t i = 3; i <= c.ndim; ++i) {
    if (i <= a.ndim && back(a, i) != back(c, i) && back(a, i) != 1) refuse();
    if (i <= b.ndim && back(b, i) != back(c, i) && back(b, i) != 1) refuse();
  }
}

// Strides along axes of extent 1 mean nothing: they are set so that the matrix looks dense, and equal matrices get
// equal keys.
void tidy(int64_t rows, int64_t cols, int64_t& row, int64_t& col) {
  if (cols == 1 && rows == 1) {
    row = col = 1;
  } else if (cols == 1) {
    col = 1;
  } else if (rows == 1) {
    row = col == 1 ? cols : 1;
  }
}

// Adds a batch axis on the inner side, merging it with its outer neighbour where all three operands step evenly.
void add_batch_axis(Problem& p, int64_t extent, int64_t a, int64_t b, int64_t c) {
  if (extent == 1) return;
  if (p.batch_axes > 0) {
    const int64_t i = p.batch_axes - 1;
    if (p.a_batch[i] == a * extent && p.b_batch[i] == b * extent && p.c_batch[i] == c * extent) {
      p.batch[i] *= extent, p.a_batch[i] = a, p.b_batch[i] = b, p.c_batch[i] = c;
      return;
    }
  }
  if (p.batch_axes == kMaxBatchAxes)
    fail(TN_E_UNSUPPORTED, "gemm: the batch is strided along more than " + std::to_string(kMaxBatchAxes) +
                               " axes; make the operands contiguous");
  const int64_t i = p.batch_axes++;
  p.batch[i] = extent, p.a_batch[i] = a, p.b_batch[i] = b, p.c_batch[i] = c;
}

}  // namespace

Problem normalize(const tn_gemm& g, Pointers* pointers) {
  if (!g.a || !g.b || !g.c) fail(TN_E_ARGUMENT, "gemm: an operand is missing");
  const tn_tensor &a = *g.a, &b = *g.b, &c = *g.c;
  check_shapes(a, b, c);
  Problem p{};
  const auto back = [](const int64_t* v, const tn_tensor& t, int32_t i) { return v[t.ndim - i]; };
  p.m = back(c.shape, c, 2), p.n = back(c.shape, c, 1), p.k = back(a.shape, a, 1);
  p.a_row = back(a.strides, a, 2), p.a_col = back(a.strides, a, 1);
  p.b_row = back(b.strides, b, 2), p.b_col = back(b.strides, b, 1);
  p.c_row = back(c.strides, c, 2), p.c_col = back(c.strides, c, 1);
  for (int32_t i = c.ndim; i >= 3; --i) {
    const auto step = [&](const tn_tensor& t) {
      return i <= t.ndim && back(t.shape, t, i) != 1 ? back(t.strides, t, i) : 0;
    };
    add_batch_axis(p, back(c.shape, c, i), step(a), step(b), step(c));
  }
  // One weight for a batch whose rows follow each other is one taller product.
  if (p.batch_axes == 1 && p.b_batch[0] == 0 && p.m > 0 && p.a_batch[0] == p.m * p.a_row &&
      p.c_batch[0] == p.m * p.c_row)
    p.m *= p.batch[0], p.batch_axes = 0, p.batch[0] = p.a_batch[0] = p.c_batch[0] = 0;
  tidy(p.m, p.k, p.a_row, p.a_col);
  tidy(p.k, p.n, p.b_row, p.b_col);
  tidy(p.m, p.n, p.c_row, p.c_col);
  p.a = storage_of(a, "A"), p.b = storage_of(b, "B"), p.c = storage_of(c, "C");
  if (p.c == Storage::kF16) fail(TN_E_UNSUPPORTED, "gemm: C must be f32 or bf16");
  if (g.bias) {
    if (g.bias->ndim != 1 || g.bias->shape[0] != back(c.shape, c, 1))
      fail(TN_E_ARGUMENT, "gemm: bias " + ops::shape_text(*g.bias) + " does not fit C " + ops::shape_text(c));
    p.bias = storage_of(*g.bias, "bias");
    p.bias_stride = g.bias->strides[0];
  }
  if (g.flags & ~static_cast<uint32_t>(TN_GEMM_EXACT))
    fail(TN_E_UNSUPPORTED, "gemm: unknown flags " + std::to_string(g.flags));
  p.exact = g.flags & TN_GEMM_EXACT ? 1 : 0;
  const bool packed = TN_HAS(&g, tn_gemm, packed_b) && g.packed_b;
  p.packed_b = packed;
  p.threads = omp_get_max_threads();
  const auto factor = [](double x) { return x == 0 ? Factor::kZero : x == 1 ? Factor::kOne : Factor::kOther; };
  p.alpha = factor(g.alpha), p.beta = factor(g.beta);
  if (pointers) {
    *pointers = {sdk::data<char>(a),
                 packed ? g.packed_b : sdk::data<char>(b),
                 g.bias ? sdk::data<char>(*g.bias) : nullptr,
                 sdk::data<char>(c),
                 g.alpha,
                 g.beta};
  }
  if (p.c_col != 1 && p.c_row == 1) {
    if (packed) fail(TN_E_UNSUPPORTED, "gemm: a packed B needs a row-major C");
    p.swapped = 1;
    std::swap(p.m, p.n), std::swap(p.c_row, p.c_col), std::swap(p.a, p.b);
    const Problem q = p;
    p.a_row = q.b_col, p.a_col = q.b_row, p.b_row = q.a_col, p.b_col = q.a_row;
    std::swap(p.a_batch, p.b_batch);
    if (pointers) std::swap(pointers->a, pointers->b);
  }
  return p;
}

}  // namespace tenon::onednn
