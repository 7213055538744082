// Newton-Schulz orthogonalisation as Muon has it (Jordan et al. 2024): X[m, n] ← a polynomial in X that keeps its
// singular vectors and brings its singular values near 1.
//
//   X ← X / (|X|_F + ε), then `steps` times   A = X Xᵀ,   X ← (a I + b A + c A A) X     (on the shorter side)
//
// The coefficients grow small values fast and stop short of converging: from [0.01, 1] five steps lead into
// [0.68, 1.14]. A and A·A are symmetric, so nearly half of their arithmetic is left out; X is replaced panel by panel,
// so that there is one X, two squares of the shorter side and a panel in the workspace.
#pragma once

#include <cmath>

#include "sdk/linalg/norm.h"
#include "sdk/linalg/on_host.h"
#include "sdk/linalg/symmetric.h"

namespace tenon::sdk {

struct NewtonSchulz {
  static constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;
  static constexpr int64_t kPanel = 512;

  int64_t m, n;  // of X, dense row-major
  tn_dtype dtype;
  int steps;
  double eps = 1e-7;
  SquaredNorm norm;
  void *x = nullptr, *gram = nullptr, *polynomial = nullptr, *panel = nullptr;

  NewtonSchulz(int64_t m, int64_t n, tn_dtype dtype, int steps) : m(m), n(n), dtype(dtype), steps(steps), norm(m * n) {}

  int64_t order() const { return std::min(m, n); }
  int64_t length() const { return std::max(m, n); }
  void lay_out(Workspace& w) {
    const auto take = [&](int64_t elements) -> void* { return w.take<uint8_t>(elements * dtype.bits / 8); };
    x = take(m * n), gram = take(order() * order()), polynomial = take(order() * order());
    panel = take(order() * std::min(kPanel, length()));
    norm.lay_out(w);
  }
  double flops() const {
    const double d = static_cast<double>(order()), l = static_cast<double>(length());
    return steps * (3 * d * d * l + d * d * d);
  }
  uint64_t measure(const Products& product) const {
    Measure most{product};
    gram_product(most), polynomial_product(most);
    panel_product(most, 0, std::min(kPanel, length()));
    if (length() % kPanel) panel_product(most, 0, length() % kPanel);
    return most.most;
  }

  // X, to be filled before run(), and the result after it.
  Stored values() const {
    Stored s;
    if (same(dtype, kF32))
      s.f32 = static_cast<float*>(x);
    else
      s.b16 = static_cast<bf16*>(x);
    return s;
  }

  void run(const tn_exec* exec, const Products& product) const {
    if (same(dtype, kF32))
      run<float>(exec, product);
    else
      run<bf16>(exec, product);
  }

  // What follows is for the functions above; nvcc takes kernels in public members only.

  // X with the shorter side first.
  Matrix wide() const {
    const Matrix v = Matrix::dense(x, dtype, m, n);
    return m > n ? v.transposed() : v;
  }
  Matrix square(void* data) const { return Matrix::dense(data, dtype, order(), order()); }

  template <class Product>
  void gram_product(Product& product) const {
    symmetric_product(product, 1, wide(), wide().transposed(), 0, square(gram));
  }
  template <class Product>
  void polynomial_product(Product& product) const {
    symmetric_product(product, kC, square(gram), square(gram), kB, square(polynomial));
  }
  template <class Product>
  void panel_product(Product& product, int64_t begin, int64_t width) const {
    const Matrix to =
        m > n ? Matrix::dense(panel, dtype, width, order()).transposed() : Matrix::dense(panel, dtype, order(), width);
    product(1, square(polynomial), wide().column_block(begin, width), 0, to);
  }

  template <class T>
  void run(const tn_exec* exec, const Products& product) const {
    if (m == 0 || n == 0) return;
    normalize<T>(exec);
    const int64_t d = order(), l = length();
    T *a = static_cast<T*>(gram), *p = static_cast<T*>(polynomial);
    for (int k = 0; k < steps; ++k) {
      gram_product(product);
      mirror(exec, a, d);
      copy_values(exec, a, p, d * d);
      polynomial_product(product);
      mirror(exec, p, d, static_cast<float>(kA));
      for (int64_t begin = 0; begin < l; begin += kPanel) {
        const int64_t width = std::min(kPanel, l - begin);
        panel_product(product, begin, width);
        put_back<T>(exec, begin, width);
      }
    }
  }
  template <class T>
  void normalize(const tn_exec* exec) const {
    norm.of(exec, values());
    const double* squared = norm.value;
    const double least = eps;
    T* v = static_cast<T*>(x);
    for_each(exec, m * n, [=] TN_KERNEL(int64_t i) {
      v[i] = from_float<T>(to_float(v[i]) * static_cast<float>(1 / (std::sqrt(*squared) + least)));
    });
  }
  // The panel over the columns (m <= n) or rows of X that it was made from.
  template <class T>
  void put_back(const tn_exec* exec, int64_t begin, int64_t width) const {
    const bool tall = m > n;
    const int64_t rows = tall ? width : order(), columns = tall ? order() : width, stride = n;
    T* to = static_cast<T*>(x) + (tall ? begin * n : begin);
    const T* from = static_cast<const T*>(panel);
    for_each_block(
        exec, rows,
        [=] TN_KERNEL(const Block& block) {
          T* row = to + block.index * stride;
          const T* source = from + block.index * columns;
          block.each(columns, [=](int64_t j) { row[j] = source[j]; });
        },
        columns);
  }
};

}  // namespace tenon::sdk
