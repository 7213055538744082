// Products whose result is known to be symmetric: the device computes the block columns on and right of the diagonal,
// the rest is a copy. With eight panels that is 9/16 of the arithmetic.
#pragma once

#include <algorithm>

#include "sdk/for_each.h"
#include "sdk/linalg/matrix.h"

namespace tenon::sdk {

// What a workspace must hold for products that are only described: the same code runs and is measured. A device plans a
// product for its factors too, so factors that change from step to step belong into the operands.
struct Measure {
  const Products& product;
  uint64_t most = 0;
  void operator()(double alpha, const Matrix& a, const Matrix& b, double beta, const Matrix& c) {
    most = std::max(most, product.measure(a, b, c, alpha, beta));
  }
};

// Upper triangle (and some of the lower) of c[n, n] ← alpha · a · b + beta · c, where a · b is symmetric.
template <class Product>
void symmetric_product(Product& product, double alpha, const Matrix& a, const Matrix& b, double beta, const Matrix& c) {
  const int64_t n = c.rows, panel = std::max<int64_t>(128, (n + 511) / 512 * 64);
  for (int64_t i = 0; i < n; i += panel) {
    const int64_t rows = std::min(panel, n - i);
    product(alpha, a.row_block(i, rows), b.column_block(i, n - i), beta, c.row_block(i, rows).column_block(i, n - i));
  }
}

// c[n, n], dense: the upper triangle, with `diagonal` added on the diagonal, also becomes the lower one.
template <class T>
void mirror(const tn_exec* exec, T* c, int64_t n, float diagonal = 0) {
#if TN_GPU
  for_each(exec, n * n, [=] TN_KERNEL(int64_t k) {
    const int64_t i = k / n, j = k % n;
    if (j < i) c[k] = c[j * n + i];
    if (j == i && diagonal != 0) c[k] = from_float<T>(to_float(c[k]) + diagonal);
  });
#else
  constexpr int64_t kSide = 32;
  const int64_t tiles = (n + kSide - 1) / kSide;
  for_each_block(
      exec, tiles,
      [=](const Block& block) {
        const int64_t i0 = block.index * kSide, rows = n - i0 < kSide ? n - i0 : kSide;
        for (int64_t j0 = i0; j0 < n; j0 += kSide) {
          const int64_t columns = n - j0 < kSide ? n - j0 : kSide;
          for (int64_t j = j0; j < j0 + columns; ++j)
            block.each(j > i0 ? (j - i0 < rows ? j - i0 : rows) : 0,
                       [=](int64_t i) { c[j * n + i0 + i] = c[(i0 + i) * n + j]; });
        }
        if (diagonal != 0)
          block.each(rows, [=](int64_t i) {
            T& x = c[(i0 + i) * n + i0 + i];
            x = from_float<T>(to_float(x) + diagonal);
          });
      },
      kSide * n);
#endif
}

}  // namespace tenon::sdk
