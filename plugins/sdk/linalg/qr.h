// Orthonormal columns for a matrix too wide for one Gram matrix: block Gram-Schmidt on two levels, with the large products on the device. A
// block of 256 columns loses what it has along all before it; within it panels of 64 columns do, and are orthonormalised in f64. Both happen
// twice.
#pragma once

#include "sdk/linalg/cholesky.h"
#include "sdk/linalg/symmetric.h"
#include "sdk/workspace.h"

namespace tenon::sdk {

// y[n, k] ← Q of y = Q R, k <= n, R with a positive diagonal. A column that depends on those before it becomes zero or has a direction of
// its own.
struct BlockQr {
  static constexpr int64_t kBlock = 256, kPanel = 64;

  int64_t n, k;
  float *panel = nullptr, *fresh = nullptr, *coefficients = nullptr;
  double *s = nullptr, *t = nullptr;

  BlockQr(int64_t n, int64_t k) : n(n), k(k) {}
  int64_t width() const { return std::min(kPanel, k); }
  void lay_out(Workspace& w) {
    panel = w.take<float>(n * width()), fresh = w.take<float>(n * width());
    coefficients = w.take<float>(std::max(std::max<int64_t>(0, k - 1) / kBlock * kBlock * kBlock, kBlock * kPanel));
    s = w.take<double>(width() * width()), t = w.take<double>(width() * width());
  }
  double flops() const {
    const double fn = static_cast<double>(n), fk = static_cast<double>(k);
    return 4 * fn * fk * fk + 8 * fn * fk * static_cast<double>(width());
  }
  uint64_t measure(const Products& product) const {
    Measure most{product};
    for (int64_t begin = 0; begin < k; begin += kBlock) {
      const int64_t w = std::min(kBlock, k - begin);
      if (begin > 0) project(most, columns(nullptr, 0, begin), columns(nullptr, begin, w));
      if (begin > 0 && w == kBlock) continue;  // as the first block
      for (int64_t at = kPanel; at < w; at += kPanel) project(most, columns(nullptr, begin, at), Matrix::dense(panel, n, std::min(kPanel, w - at)));
    }
    return most.most;
  }

  void run(const tn_exec* exec, const Products& product, float* y) const {
    for (int64_t begin = 0; begin < k; begin += kBlock) {
      const int64_t w = std::min(kBlock, k - begin);
      if (begin > 0) {
        project(product, columns(y, 0, begin), columns(y, begin, w));
        within(exec, product, y, begin, w, 1);
        project(product, columns(y, 0, begin), columns(y, begin, w));
      }
      within(exec, product, y, begin, w, 2);
    }
  }

  // The panels of a block, public for nvcc, which takes kernels nowhere else.
  void within(const tn_exec* exec, const Products& product, float* y, int64_t first, int64_t count, int passes) const {
    for (int64_t at = 0; at < count; at += kPanel) {
      const int64_t begin = first + at, w = std::min(kPanel, count - at), stride = k;
      float *from = panel, *to = fresh;
      for_each(exec, n * w, [=] TN_KERNEL(int64_t i) { from[i] = y[i / w * stride + begin + i % w]; });
      for (int pass = 0; pass < passes; ++pass) {
        if (at > 0) project(product, columns(y, first, at), Matrix::dense(from, n, w));
        orthonormalize(exec, from, n, w, to, s, t);
        std::swap(from, to);
      }
      for_each(exec, n * w, [=] TN_KERNEL(int64_t i) { y[i / w * stride + begin + i % w] = from[i]; });
    }
  }

 private:
  Matrix columns(float* y, int64_t begin, int64_t count) const { return Matrix::dense(y, n, k).column_block(begin, count); }
  // part loses what it has along `before`.
  template <class Product>
  void project(Product& product, const Matrix& before, const Matrix& part) const {
    const Matrix along = Matrix::dense(coefficients, before.columns, part.columns);
    product(1, before.transposed(), part, 0, along);
    product(-1, before, along, 1, part);
  }
};

}  // namespace tenon::sdk
