// The triangular factor that column-wise compensation (optimal brain surgeon, GPTQ) needs: U upper triangular with H⁻¹ = Uᵀ U, for a
// symmetric positive definite H[n, n] in f32.
//
// H = R Rᵀ with R upper triangular is a Cholesky factorization taken from the last column to the first, and U = R⁻¹: one factorization and
// one triangular inverse, where factor, inverse and factor again would cost twice the FLOPs. Both go by square tiles: those on the diagonal
// in f64 on the host, everything else products on the device. One size of tile means few shapes: a device plans a product once per shape.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <vector>

#include "sdk/linalg/matrix.h"
#include "sdk/linalg/on_host.h"
#include "sdk/workspace.h"

namespace tenon::sdk {

inline constexpr int64_t kFactorTile = 128;

namespace upper {

// d[k, k] (row stride n, f32) = R Rᵀ: leaves R in its upper triangle and R⁻¹ in inverse[k, k] (f64, upper, zero below). False: not positive
// definite.
inline bool factor_diagonal(float* d, int64_t n, int64_t k, double* r, double* inverse) {
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j) r[i * k + j] = j >= i ? d[i * n + j] : 0;
  for (int64_t j = k; j-- > 0;) {
    double pivot = r[j * k + j];
    for (int64_t p = j + 1; p < k; ++p) pivot -= r[j * k + p] * r[j * k + p];
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    r[j * k + j] = std::sqrt(pivot);
    for (int64_t i = 0; i < j; ++i) {
      double v = r[i * k + j];
      for (int64_t p = j + 1; p < k; ++p) v -= r[i * k + p] * r[j * k + p];
      r[i * k + j] = v / r[j * k + j];
    }
  }
  // R⁻¹ row by row from the last: row i = (e_i − Σ_{p>i} R[i, p] · row p) / R[i, i].
  for (int64_t i = k; i-- > 0;) {
    double* row = inverse + i * k;
    for (int64_t j = 0; j < k; ++j) row[j] = j == i;
    for (int64_t p = i + 1; p < k; ++p)
      for (int64_t j = p; j < k; ++j) row[j] -= r[i * k + p] * inverse[p * k + j];
    for (int64_t j = i; j < k; ++j) row[j] /= r[i * k + i];
  }
  return true;
}

}  // namespace upper

// to[rows, columns] ← from, each with its own distance between rows.
inline void copy_rows(const tn_exec* exec, const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows, int64_t columns) {
  for_each(exec, rows * columns, [=] TN_KERNEL(int64_t i) {
    const int64_t row = i / columns, k = i - row * columns;
    to[row * to_stride + k] = from[row * from_stride + k];
  });
}

// Scratch of factor_inverse beside the workspace of its products.
struct FactorScratch {
  float *column = nullptr, *tile = nullptr, *diagonal = nullptr;
  FactorScratch() = default;  // for measuring
  FactorScratch(Workspace& w, int64_t n)
      : column(w.take<float>(n * kFactorTile)), tile(w.take<float>(kFactorTile * kFactorTile)), diagonal(w.take<float>(kFactorTile * kFactorTile)) {}
};

// Workspace of the products of factor_inverse.
inline uint64_t factor_inverse_products(const Products& products, int64_t n) {
  const int64_t edge = n % kFactorTile, full = std::min(n, kFactorTile);
  uint64_t bytes = 0;
  const auto inside = [n](int64_t rows, int64_t columns) { return Matrix{nullptr, kF32, rows, columns, n, 1}; };
  const auto dense = [](int64_t rows, int64_t columns) { return Matrix::dense(nullptr, rows, columns); };
  for (int64_t w : {full, edge > 0 ? edge : full}) {
    bytes = std::max(bytes, products.measure(inside(full, w), dense(w, w).transposed(), dense(full, w), 1, 0));
    bytes = std::max(bytes, products.measure(dense(full, w), dense(full, w).transposed(), inside(full, full), -1, 1));
    for (const double keep : {0.0, 1.0}) bytes = std::max(bytes, products.measure(inside(full, full), dense(full, w), dense(full, w), 1, keep));
    bytes = std::max(bytes, products.measure(dense(full, w), inside(w, w), inside(full, w), -1, 0));
  }
  return bytes;
}

// h[n, n] (its upper triangle is read) → U in the upper triangle, zero below. False, with h destroyed: h is not positive definite.
inline bool factor_inverse(const tn_exec* exec, const Products& multiply, float* h, int64_t n, const FactorScratch& scratch) {
  constexpr int64_t kT = kFactorTile;
  const int64_t tiles = (n + kT - 1) / kT;
  const auto width = [&](int64_t t) { return std::min(kT, n - t * kT); };  // only the last may be narrower
  const auto at = [&](int64_t i, int64_t j) { return Matrix{h + i * kT * n + j * kT, kF32, width(i), width(j), n, 1}; };
  // Tile i of the column of tiles that is being worked on, dense.
  const auto column = [&](int64_t i, int64_t k) { return Matrix::dense(scratch.column + i * kT * k, width(i), k); };
  std::vector<double> r(kT * kT), inverse(kT * kT);

  // R, from the last column of tiles to the first. Diagonal tiles end as R⁻¹, which is what both halves use.
  for (int64_t j = tiles; j-- > 0;) {
    const int64_t k = width(j);
    float* const corner = h + j * kT * n + j * kT;
    copy_rows(exec, corner, n, scratch.diagonal, k, k, k);
    OnHost<float> diagonal(exec, scratch.diagonal, k * k);
    if (!upper::factor_diagonal(diagonal.data(), k, k, r.data(), inverse.data())) return false;
    for (int64_t i = 0; i < k * k; ++i) diagonal[i] = static_cast<float>(inverse[i]);
    diagonal.put_back();
    copy_rows(exec, scratch.diagonal, k, corner, n, k, k);
    for (int64_t i = 0; i < j; ++i)  // R_ij = A_ij R_jj⁻ᵀ
      multiply(1, at(i, j), Matrix::dense(scratch.diagonal, k, k).transposed(), 0, column(i, k));
    copy_rows(exec, scratch.column, k, h + j * kT, n, j * kT, k);
    for (int64_t i = 0; i < j; ++i)  // A −= R_:j R_:jᵀ, the upper triangle alone
      for (int64_t c = i; c < j; ++c) multiply(-1, column(i, k), column(c, k).transposed(), 1, at(i, c));
  }
  // U = R⁻¹, from the first column on: U_ij = −(Σ_{i ≤ c < j} U_ic R_cj) U_jj.
  for (int64_t j = 0; j < tiles; ++j) {
    const int64_t k = width(j);
    float* const below = h + j * kT * n;
    const int64_t left = j * kT;
    for_each(exec, k * left, [=] TN_KERNEL(int64_t i) { below[i / left * n + i % left] = 0; });
    copy_rows(exec, h + j * kT, n, scratch.column, k, j * kT, k);
    for (int64_t i = 0; i < j; ++i) {
      const Matrix sum = Matrix::dense(scratch.tile, kT, k);
      for (int64_t c = i; c < j; ++c) multiply(1, at(i, c), column(c, k), c > i, sum);
      multiply(-1, sum, at(j, j), 0, at(i, j));
    }
  }
  return true;
}

}  // namespace tenon::sdk
