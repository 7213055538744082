// Orthonormal columns for a matrix too wide for one Gram matrix: block Gram-Schmidt, every panel against those before
// it twice, with the large products on the device and panels of 64 columns orthonormalised in f64.
#pragma once

#include "sdk/linalg/cholesky.h"
#include "sdk/linalg/symmetric.h"
#include "sdk/workspace.h"

namespace tenon::sdk {

// y[n, k] ← Q of y = Q R, k <= n, R with a positive diagonal. A column that depends on those before it becomes zero.
struct BlockQr {
  static constexpr int64_t kPanel = 64;

  int64_t n, k;
  float *panel = nullptr, *fresh = nullptr, *coefficients = nullptr;
  double *s = nullptr, *t = nullptr;

  BlockQr(int64_t n, int64_t k) : n(n), k(k) {}
  int64_t width() const { return std::min(kPanel, k); }
  void lay_out(Workspace& w) {
    panel = w.take<float>(n * width()), fresh = w.take<float>(n * width());
    coefficients = w.take<float>(std::max<int64_t>(0, k - width()) * width());
    s = w.take<double>(width() * width()), t = w.take<double>(width() * width());
  }
  double flops() const {
    const double fn = static_cast<double>(n), fk = static_cast<double>(k);
    return 4 * fn * fk * fk + 8 * fn * fk * static_cast<double>(width());
  }
  uint64_t measure(const Products& product) const {
    Measure most{product};
    float* y = nullptr;
    for (int64_t begin = kPanel; begin < k; begin += kPanel) project(most, y, begin, std::min(kPanel, k - begin), y);
    return most.most;
  }

  void run(const tn_exec* exec, const Products& product, float* y) const {
    for (int64_t begin = 0; begin < k; begin += kPanel) {
      const int64_t w = std::min(kPanel, k - begin), columns = k;
      float *from = panel, *to = fresh;
      for_each(exec, n * w, [=] TN_KERNEL(int64_t i) { from[i] = y[i / w * columns + begin + i % w]; });
      for (int pass = 0; pass < 2; ++pass) {
        if (begin > 0) project(product, y, begin, w, from);
        orthonormalize(exec, from, n, w, to, s, t);
        std::swap(from, to);
      }
      for_each(exec, n * w, [=] TN_KERNEL(int64_t i) { y[i / w * columns + begin + i % w] = from[i]; });
    }
  }

 private:
  // p[n, w] loses what it has along y's first `begin` columns.
  template <class Product>
  void project(Product& product, float* y, int64_t begin, int64_t w, float* p) const {
    const Matrix before = Matrix::dense(y, n, k).column_block(0, begin), part = Matrix::dense(p, n, w),
                 along = Matrix::dense(coefficients, begin, w);
    product(1, before.transposed(), part, 0, along);
    product(-1, before, along, 1, part);
  }
};

}  // namespace tenon::sdk
