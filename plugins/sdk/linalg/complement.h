// The orthogonal complement of orthonormal columns, by products alone (the reconstruction of Householder vectors, Ballard et al. 2014).
//
// For Q1[n, d] = [A; B] with orthonormal columns and signs S with A − S invertible, W = [A − S; B] and X = B (A − S)⁻¹ give
//   C = W S Xᵀ + [0; I]   [n, n − d],   Cᵀ C = I,  Q1ᵀ C = 0.
// The signs are those against the pivots of the factorization A − S = L U, so that no pivot is smaller than 1 and none has to be sought.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "sdk/linalg/on_host.h"
#include "sdk/linalg/symmetric.h"
#include "sdk/workspace.h"

namespace tenon::sdk {

struct Complement {
  static constexpr int64_t kTile = 256;

  int64_t n, d;
  float *tile = nullptr, *inverse = nullptr, *panel = nullptr, *signs = nullptr;  // two of [kTile, kTile], [n, kTile], [d]

  Complement(int64_t n, int64_t d) : n(n), d(d) {}
  void lay_out(Workspace& w) {
    tile = w.take<float>(kTile * kTile), inverse = w.take<float>(kTile * kTile), panel = w.take<float>(n * kTile), signs = w.take<float>(d);
  }
  uint64_t measure(const Products& product) const {
    Measure most{product};
    for (int64_t at = 0; at < d; at += kTile) eliminate(most, nullptr, at), solve(most, nullptr, at);
    join(most, nullptr, nullptr, Matrix::dense(nullptr, n, n).column_block(d, n - d));
    return most.most;
  }

  // q's columns from d on; q1[n, d] and the scratch lu[n, d], both dense, are destroyed.
  void run(const tn_exec* exec, const Products& product, float* q1, float* lu, const Matrix& q) const {
    const int64_t order = d;
    copy_values(exec, q1, lu, n * d);
    for (int64_t at = 0; at < d; at += kTile) {
      factor_tile(exec, lu, at);
      eliminate(product, lu, at, exec);
    }
    // The rows from d on hold B U⁻¹ now, what is left is · L⁻¹, from the last tile to the first.
    for (int64_t at = (d - 1) / kTile * kTile; at >= 0; at -= kTile) {
      invert_lower(exec, lu, at);
      solve(product, lu, at, exec);
    }
    const float* s = signs;
    for_each(exec, d, [=] TN_KERNEL(int64_t i) { q1[i * (order + 1)] -= s[i]; });
    for_each(exec, (n - d) * d, [=] TN_KERNEL(int64_t i) { lu[order * order + i] *= s[i % order]; });
    join(product, q1, lu, q.column_block(d, n - d));
    float* const to = static_cast<float*>(q.data);
    const int64_t stride = q.row_stride;
    for_each(exec, n - d, [=] TN_KERNEL(int64_t i) { to[(order + i) * (stride + 1)] += 1; });
  }

  // What follows is public for nvcc, which takes kernels nowhere else.

  int64_t width(int64_t at) const { return std::min(kTile, d - at); }
  Matrix part(float* lu, int64_t row, int64_t rows, int64_t column, int64_t columns) const {
    return Matrix::dense(lu, n, d).row_block(row, rows).column_block(column, columns);
  }

  // L U of a diagonal tile minus its signs, on the host in f64; L⁻¹ to `tile`, U⁻¹ to `inverse`.
  void factor_tile(const tn_exec* exec, float* lu, int64_t at) const {
    const int64_t w = width(at);
    take(exec, lu, at, tile);
    OnHost<float> corner(exec, tile, w * w), up = OnHost<float>::unread(exec, inverse, w * w), sign = OnHost<float>::unread(exec, signs + at, w);
    std::vector<double> a(corner.data(), corner.data() + w * w);
    for (int64_t k = 0; k < w; ++k) {
      sign[k] = a[k * w + k] > 0 ? -1.0f : 1.0f;
      a[k * w + k] -= sign[k];
      for (int64_t i = k + 1; i < w; ++i) {
        const double f = a[i * w + k] /= a[k * w + k];
        for (int64_t j = k + 1; j < w; ++j) a[i * w + j] -= f * a[k * w + j];
      }
    }
    for (int64_t i = 0; i < w * w; ++i) corner[i] = static_cast<float>(a[i]);
    corner.put_back(), sign.put_back();
    put(exec, lu, at, tile);
    std::vector<double> x(w * w);
    lower_inverse(a, x, w);
    for (int64_t i = 0; i < w * w; ++i) corner[i] = static_cast<float>(x[i]);
    corner.put_back();
    // U⁻¹ is the transpose of the inverse of Uᵀ, whose diagonal is not 1.
    for (int64_t j = 0; j < w; ++j)
      for (int64_t i = j; i >= 0; --i) {
        double sum = i == j;
        for (int64_t p = i + 1; p <= j; ++p) sum -= a[i * w + p] * x[p * w + j];
        x[i * w + j] = sum / a[i * w + i];
      }
    for (int64_t i = 0; i < w; ++i)
      for (int64_t j = 0; j < w; ++j) up[i * w + j] = j >= i ? static_cast<float>(x[i * w + j]) : 0.0f;
    up.put_back();
  }
  void invert_lower(const tn_exec* exec, float* lu, int64_t at) const {
    const int64_t w = width(at);
    take(exec, lu, at, tile);
    OnHost<float> corner(exec, tile, w * w);
    const std::vector<double> a(corner.data(), corner.data() + w * w);
    std::vector<double> x(w * w);
    lower_inverse(a, x, w);
    for (int64_t i = 0; i < w * w; ++i) corner[i] = static_cast<float>(x[i]);
    corner.put_back();
  }
  // x = L⁻¹ for the unit lower triangle of a.
  static void lower_inverse(const std::vector<double>& a, std::vector<double>& x, int64_t w) {
    for (int64_t i = 0; i < w; ++i) {
      for (int64_t j = 0; j < w; ++j) x[i * w + j] = i == j;
      for (int64_t p = 0; p < i; ++p)
        for (int64_t j = 0; j <= p; ++j) x[i * w + j] -= a[i * w + p] * x[p * w + j];
    }
  }
  void take(const tn_exec* exec, const float* lu, int64_t at, float* to) const {
    const int64_t w = width(at), stride = d;
    for_each(exec, w * w, [=] TN_KERNEL(int64_t i) { to[i] = lu[(at + i / w) * stride + at + i % w]; });
  }
  void put(const tn_exec* exec, float* lu, int64_t at, const float* from) const {
    const int64_t w = width(at), stride = d;
    for_each(exec, w * w, [=] TN_KERNEL(int64_t i) { lu[(at + i / w) * stride + at + i % w] = from[i]; });
  }
  // Rows [row, row + rows) of the column of tiles at `at`, as they were computed in `panel`.
  void put_panel(const tn_exec* exec, float* lu, int64_t row, int64_t rows, int64_t at) const {
    const int64_t w = width(at), stride = d;
    const float* from = panel;
    for_each(exec, rows * w, [=] TN_KERNEL(int64_t i) { lu[(row + i / w) * stride + at + i % w] = from[i]; });
  }

  // The tiles below by U⁻¹, those on the right by L⁻¹, and the rest loses their product. Without exec: the products alone.
  template <class Product>
  void eliminate(Product& product, float* lu, int64_t at, const tn_exec* exec = nullptr) const {
    const int64_t w = width(at), next = at + w, right = d - next;
    product(1, part(lu, next, n - next, at, w), Matrix::dense(inverse, w, w), 0, Matrix::dense(panel, n - next, w));
    if (exec) put_panel(exec, lu, next, n - next, at);
    for (int64_t j = next; j < d; j += kTile) {
      const int64_t columns = width(j);
      product(1, Matrix::dense(tile, w, w), part(lu, at, w, j, columns), 0, Matrix::dense(panel, w, columns));
      if (exec) put_panel(exec, lu, at, w, j);
    }
    if (right > 0) product(-1, part(lu, next, n - next, at, w), part(lu, at, w, next, right), 1, part(lu, next, n - next, next, right));
  }
  // X's tile at `at`: (what is there − Σ of the tiles behind it times L) L⁻¹.
  template <class Product>
  void solve(Product& product, float* lu, int64_t at, const tn_exec* exec = nullptr) const {
    const int64_t w = width(at), next = at + w, rows = n - d;
    if (next < d) product(-1, part(lu, d, rows, next, d - next), part(lu, next, d - next, at, w), 1, part(lu, d, rows, at, w));
    product(1, part(lu, d, rows, at, w), Matrix::dense(tile, w, w), 0, Matrix::dense(panel, rows, w));
    if (exec) put_panel(exec, lu, d, rows, at);
  }
  template <class Product>
  void join(Product& product, float* w, float* lu, const Matrix& to) const {
    product(1, Matrix::dense(w, n, d), part(lu, d, n - d, 0, d).transposed(), 0, to);
  }
};

}  // namespace tenon::sdk
