// The clipped weight-gradient product: dW += Σ_i min(1, C / |D_i|) D_i with D_i = dY_i^T X_i of sample i.
//
// |D_i| comes first, from whichever is smaller: D_i itself, or the two Gram matrices of the sample's rows, since
// |D_i|² = Σ_ab (X_i X_i^T)_ab (dY_i dY_i^T)_ab. Then the rows of dY are scaled and one ordinary product does the rest.
#pragma once

#include <algorithm>
#include <cmath>

#include "sdk/for_each.h"
#include "sdk/linalg/matrix.h"
#include "sdk/stored.h"
#include "sdk/workspace.h"
#include "tenon/linear_wgrad.h"

namespace tenon::sdk {

constexpr bool by_gram(int64_t rows, int64_t m, int64_t n) { return 2 * rows * rows < m * n; }

struct ClipBuffers {
  float *scaled, *square, *partial, *factor;  // [rows, m], [m n], sums, one per sample
  ClipBuffers(Workspace& w, int64_t rows, int64_t m, int64_t n, int64_t samples)
      : scaled(w.take<float>(rows * m)), square(w.take<float>(m * n)), partial(w.take<float>(chunks(m * n))), factor(w.take<float>(samples)) {}
  // Workspace of the products, of the longest sample that there may be.
  uint64_t measure(const Products& products, int64_t rows, int64_t m, int64_t n) const {
    uint64_t most = 0;
    int64_t gram = rows;
    while (gram > 1 && !by_gram(gram, m, n)) gram = std::min(gram - 1, static_cast<int64_t>(std::sqrt(static_cast<double>(m * n) / 2)));
    for (const tn_dtype d : {kF32, kBF16}) {
      const auto of = [&](int64_t r, int64_t c) { return Matrix::dense(nullptr, d, r, c); };
      most = std::max({most, products.measure(of(gram, n), of(gram, n).transposed(), Matrix::dense(square, gram, gram)),
                       products.measure(of(gram, m), of(gram, m).transposed(), Matrix::dense(square, gram, gram)),
                       products.measure(of(rows, m).transposed(), of(rows, n), Matrix::dense(square, m, n)),
                       products.measure(Matrix::dense(scaled, rows, m).transposed(), of(rows, n), Matrix::dense(square, m, n), 1, 1)});
    }
    return most;
  }
};

// out[0] = Σ a b over n elements.
inline void sum_of_products(const tn_exec* exec, const float* a, const float* b, int64_t n, float* partial, float* out) {
  const int64_t count = chunks(n);
  for_each_block(exec, count, [=](const Block& block) {
    const Chunk chunk(block, n);
    const float *pa = a + chunk.begin, *pb = b + chunk.begin;
    partial[block.index] = static_cast<float>(block.sum(chunk.n, [=](int64_t i) { return static_cast<double>(pa[i]) * pb[i]; }));
  }, kChunk);
  for_each_block(exec, 1, [=](const Block& block) { out[0] = static_cast<float>(block.sum(count, [=](int64_t i) { return static_cast<double>(partial[i]); })); });
}

inline void clipped_product(const tn_exec* exec, const tn_samples& samples, const tn_tensor& tx, const tn_tensor& tdy, double bound, double beta, tn_tensor& tdw) {
  const Matrix x = Matrix::of(tx), dy = Matrix::of(tdy), dw = Matrix::of(tdw);
  const int64_t rows = x.rows, n = x.columns, m = dy.columns;
  if (dy.rows != rows || dw.rows != m || dw.columns != n || dy.column_stride != 1 || samples.begin[0] != 0 || samples.begin[samples.n] != rows)
    fail(TN_E_ARGUMENT, "a weight-gradient came with rows of x, dy or samples that do not fit together");
  Workspace w(*exec);
  const ClipBuffers b(w, rows, m, n, samples.n);
  const Products products(exec->api, exec->device, exec->stream, w.behind(w.peak()), w.bytes_behind(w.peak()));
  for (int64_t i = 0; i < samples.n; ++i) {
    const int64_t begin = samples.begin[i], t = samples.begin[i + 1] - begin;
    if (t == 0) continue;
    const Matrix xi = x.row_block(begin, t), di = dy.row_block(begin, t);
    if (by_gram(t, m, n)) {
      float* const second = b.square + t * t;
      products(1, xi, xi.transposed(), 0, Matrix::dense(b.square, t, t));
      products(1, di, di.transposed(), 0, Matrix::dense(second, t, t));
      sum_of_products(exec, b.square, second, t * t, b.partial, b.factor + i);
    } else {
      products(1, di.transposed(), xi, 0, Matrix::dense(b.square, m, n));
      sum_of_products(exec, b.square, b.square, m * n, b.partial, b.factor + i);
    }
    // dy is grad_scale times the gradient of the sample's own loss; what is summed must not carry that.
    float* const factor = b.factor + i;
    const double unscale = 1 / samples.grad_scale;
    for_each_block(exec, 1, [=](const Block&) {
      const double norm = std::sqrt(std::fmax(static_cast<double>(*factor), 0.0)) * std::fabs(unscale);
      *factor = static_cast<float>(std::fmin(1.0, bound / (norm + 1e-6)) * unscale);
    });
    const int64_t stride = dy.row_stride, count = t * m;
    float* const to = b.scaled + begin * m;
    const auto scale_rows = [&]<class T>(const T* from) { for_each(exec, count, [=](int64_t k) { to[k] = *factor * to_float(from[k / m * stride + k % m]); }); };
    if (same(dy.dtype, kF32))
      scale_rows(static_cast<const float*>(di.data));
    else
      scale_rows(static_cast<const bf16*>(di.data));
  }
  products(1, Matrix::dense(b.scaled, rows, m).transposed(), x, beta, dw);
}

// out = (g + sigma · normal) · scale, element by element; Box-Muller of the key.
inline void add_noise(const tn_exec* exec, Stored g, int64_t n, tn_rng key, float sigma, float scale, float* out) {
  for_each_block<kChunk * sizeof(float)>(exec, chunks(n), [=](const Block& block) {
    const Chunk chunk(block, n);
    const float* from = g.read(block, chunk, block.shared<float>());
    float* const to = out + chunk.begin;
    const uint64_t first = static_cast<uint64_t>(chunk.begin);
    if (sigma > 0)
      block.each(chunk.n, [=](int64_t i) { to[i] = (from[i] + sigma * normal(key, first + static_cast<uint64_t>(i))) * scale; });
    else
      block.each(chunk.n, [=](int64_t i) { to[i] = from[i] * scale; });
  }, kChunk);
}

}  // namespace tenon::sdk
