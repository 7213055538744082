// The clipped weight-gradient product: dW += Σ_i min(1, C / |D_i|) D_i with D_i = dY_i^T X_i of sample i.
//
// |D_i| comes first, from whichever is smaller: D_i itself, or the two Gram matrices of the sample's rows, since
// |D_i|² = Σ_ab (X_i X_i^T)_ab (dY_i dY_i^T)_ab. Then the rows of dY are scaled and one ordinary product does the rest.
//
// Samples may have any length, and the workspace of a product follows no rule that could be foreseen from another's. So products come in
// a few lengths alone, all of which are measured: Gram matrices of windows of rows, of which the sample's own part is summed, and D_i as a sum
// over pieces of 2^k rows.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "sdk/for_each.h"
#include "sdk/linalg/symmetric.h"
#include "sdk/noise.h"
#include "sdk/stored.h"
#include "sdk/workspace.h"
#include "tenon/linear_wgrad.h"

namespace tenon::sdk {

struct ClipPlan {
  static constexpr int64_t kLeastWindow = 16, kLongestPiece = 512;

  int64_t rows, m, n, samples;

  // Rows of the window in which a sample of t rows is seen. Samples of one length, the common case, are their own windows.
  int64_t window(int64_t t) const {
    if (t * samples == rows) return t;
    return std::min(rows, std::max(kLeastWindow, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(t)))));
  }
  bool by_gram(int64_t window) const { return 2 * window * window < m * n; }
  static int64_t piece(int64_t t) { return std::min(kLongestPiece, static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(t)))); }

  // The products, run or measured.
  template <class Product>
  void gram(Product& product, const Matrix& window, float* out) const {
    product(1, window, window.transposed(), 0, Matrix::dense(out, window.rows, window.rows));
  }
  template <class Product>
  void add_piece(Product& product, const Matrix& x, const Matrix& dy, bool first, float* out) const {
    product(1, dy.transposed(), x, first ? 0 : 1, Matrix::dense(out, m, n));
  }
  template <class Product>
  void add_up(Product& product, float* scaled, const Matrix& x, double beta, const Matrix& dw) const {
    product(1, Matrix::dense(scaled, rows, m).transposed(), x, beta, dw);
  }

  uint64_t measure(const Products& products) const {
    if (rows == 0) return 0;
    Measure most{products};
    for (const tn_dtype type : {kF32, kBF16}) {
      const Matrix x = Matrix::dense(nullptr, type, rows, n), dy = Matrix::dense(nullptr, type, rows, m);
      const auto seen = [&](int64_t window) {
        if (by_gram(window)) gram(most, x.row_block(0, window), nullptr), gram(most, dy.row_block(0, window), nullptr);
      };
      if (samples > 0 && rows % samples == 0) seen(rows / samples);
      for (int64_t t = kLeastWindow; samples > 1 && t < 2 * rows; t *= 2) seen(std::min(t, rows));
      for (int64_t t = 1; !by_gram(rows) && t <= std::min(rows, kLongestPiece); t *= 2)
        for (const bool first : {true, false}) add_piece(most, x.row_block(0, t), dy.row_block(0, t), first, nullptr);
      for (const tn_dtype sum : {kF32, kBF16})
        for (const double beta : {0.0, 1.0}) add_up(most, nullptr, x, beta, Matrix::dense(nullptr, sum, m, n));
    }
    return most.most;
  }
};

struct ClipBuffers {
  float *scaled, *square, *partial, *factor;  // [rows, m], [m n], sums, one per sample
  ClipBuffers(Workspace& w, const ClipPlan& p)
      : scaled(w.take<float>(p.rows * p.m)), square(w.take<float>(p.m * p.n)), partial(w.take<float>(chunks(p.m * p.n))), factor(w.take<float>(p.samples)) {}
};

// out[0] = Σ a b over n elements, element i of which lies at i / columns · stride + i mod columns.
inline void sum_of_products(const tn_exec* exec, const float* a, const float* b, int64_t n, int64_t columns, int64_t stride, float* partial, float* out) {
  const int64_t count = chunks(n);
  for_each_block(exec, count, [=] TN_KERNEL(const Block& block) {
    const Chunk chunk(block, n);
    partial[block.index] = static_cast<float>(block.sum(chunk.n, [=](int64_t i) {
      const int64_t at = (chunk.begin + i) / columns * stride + (chunk.begin + i) % columns;
      return static_cast<double>(a[at]) * b[at];
    }));
  }, kChunk);
  for_each_block(exec, 1, [=] TN_KERNEL(const Block& block) { out[0] = static_cast<float>(block.sum(count, [=](int64_t i) { return static_cast<double>(partial[i]); })); });
}

// to ← *factor · from, n elements.
template <class T>
void scale_rows(const tn_exec* exec, const T* from, int64_t n, const float* factor, float* to) {
  for_each(exec, n, [=] TN_KERNEL(int64_t k) { to[k] = *factor * to_float(from[k]); });
}

inline void clipped_product(const tn_exec* exec, const tn_samples& samples, const tn_tensor& tx, const tn_tensor& tdy, double bound, double beta, tn_tensor& tdw) {
  const Matrix x = Matrix::of(tx), dy = Matrix::of(tdy), dw = Matrix::of(tdw);
  const ClipPlan p{x.rows, dy.columns, x.columns, samples.n};
  const auto dense = [](const Matrix& a) { return a.column_stride == 1 && (a.rows <= 1 || a.row_stride == a.columns); };
  if (dy.rows != p.rows || dw.rows != p.m || dw.columns != p.n || samples.begin[0] != 0 || samples.begin[samples.n] != p.rows)
    fail(TN_E_ARGUMENT, "a weight-gradient came with rows of x, dy or samples that do not fit together");
  if (!dense(x) || !dense(dy) || !dense(dw)) fail(TN_E_ARGUMENT, "a weight-gradient came with x, dy or dw that is not dense");
  Workspace w(*exec);
  const ClipBuffers b(w, p);
  const Products products(exec->api, exec->device, exec->stream, w.behind(w.peak()), w.bytes_behind(w.peak()));
  for (int64_t i = 0; i < samples.n; ++i) {
    const int64_t begin = samples.begin[i], t = samples.begin[i + 1] - begin;
    if (t == 0) continue;
    const int64_t window = p.window(t);
    if (p.by_gram(window)) {
      const int64_t first = std::min(begin, p.rows - window), inside = (begin - first) * (window + 1);
      float* const second = b.square + window * window;
      p.gram(products, x.row_block(first, window), b.square);
      p.gram(products, dy.row_block(first, window), second);
      sum_of_products(exec, b.square + inside, second + inside, t * t, t, window, b.partial, b.factor + i);
    } else {
      for (int64_t at = 0, piece; at < t; at += piece) {
        piece = ClipPlan::piece(t - at);
        p.add_piece(products, x.row_block(begin + at, piece), dy.row_block(begin + at, piece), at == 0, b.square);
      }
      sum_of_products(exec, b.square, b.square, p.m * p.n, p.n, p.n, b.partial, b.factor + i);
    }
    // dy is grad_scale times the gradient of the sample's own loss; what is summed must not carry that.
    float* const factor = b.factor + i;
    const double unscale = 1 / samples.grad_scale;
    for_each(exec, 1, [=] TN_KERNEL(int64_t) {
      const double norm = std::sqrt(std::fmax(static_cast<double>(*factor), 0.0)) * std::fabs(unscale);
      *factor = static_cast<float>(std::fmin(1.0, bound / (norm + 1e-6)) * unscale);
    });
    const void* const part = dy.row_block(begin, t).data;
    if (same(dy.dtype, kF32))
      scale_rows(exec, static_cast<const float*>(part), t * p.m, factor, b.scaled + begin * p.m);
    else
      scale_rows(exec, static_cast<const bf16*>(part), t * p.m, factor, b.scaled + begin * p.m);
  }
  p.add_up(products, b.scaled, x, beta, dw);
}

// out = (g + sigma · normal) · scale over elements [begin, begin + n) of the gradient, begin a multiple of 1024; Box-Muller of the key.
inline void add_noise(const tn_exec* exec, Stored g, int64_t begin, int64_t n, tn_rng key, float sigma, float scale, float* out) {
  const Stored part = g.from(begin);
  for_each_block<2 * kChunk * sizeof(float)>(exec, chunks(n), [=] TN_KERNEL(const Block& block) {
    const Chunk chunk(block, n);
    float* const noise = block.shared<float>();
    const float* from = part.read(block, chunk, noise + kChunk);
    float* const to = out + chunk.begin;
    if (!(sigma > 0)) return block.each(chunk.n, [=](int64_t i) { to[i] = from[i] * scale; });
    add_noise<Noise::kNormal, true>(block, key, sigma, nullptr, static_cast<uint64_t>(begin + chunk.begin), chunk.n, noise);
    block.each(chunk.n, [=](int64_t i) { to[i] = (from[i] + noise[i]) * scale; });
  }, kChunk);
}

}  // namespace tenon::sdk
