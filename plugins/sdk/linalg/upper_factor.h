// The triangular factor that column-wise compensation (optimal brain surgeon, GPTQ) needs: U upper triangular with H⁻¹ = Uᵀ U, for a
// symmetric positive definite H[n, n] in f32.
//
// H = R Rᵀ with R upper triangular is a Cholesky factorization taken from the last column to the first, and U = R⁻¹: one factorization and
// one triangular inverse, where factor, inverse and factor again would cost twice the FLOPs. Both go by square tiles: those on the diagonal
// in f64 here, everything else products on the device. One size of tile means few shapes: a device plans a product once per shape.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <vector>

#include "sdk/linalg/matrix.h"
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
    bytes = std::max(bytes, products.measure(inside(full, full), dense(full, w), dense(full, w), 1, 1));
    bytes = std::max(bytes, products.measure(dense(full, w), inside(w, w), inside(full, w), -1, 0));
  }
  return bytes;
}

// h[n, n] (its upper triangle is read) → U in the upper triangle, zero below. False, with h destroyed: h is not positive definite.
inline bool factor_inverse(const Products& multiply, float* h, int64_t n, const FactorScratch& scratch) {
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
    float* corner = h + j * kT * n + j * kT;
    if (!upper::factor_diagonal(corner, n, k, r.data(), inverse.data())) return false;
    for (int64_t i = 0; i < k; ++i)
      for (int64_t c = 0; c < k; ++c) corner[i * n + c] = scratch.diagonal[i * k + c] = static_cast<float>(inverse[i * k + c]);
    for (int64_t i = 0; i < j; ++i)  // R_ij = A_ij R_jj⁻ᵀ
      multiply(1, at(i, j), Matrix::dense(scratch.diagonal, k, k).transposed(), 0, column(i, k));
    for (int64_t i = 0; i < j * kT; ++i) std::copy_n(scratch.column + i * k, k, h + i * n + j * kT);
    for (int64_t i = 0; i < j; ++i)  // A −= R_:j R_:jᵀ, the upper triangle alone
      for (int64_t c = i; c < j; ++c) multiply(-1, column(i, k), column(c, k).transposed(), 1, at(i, c));
  }
  // U = R⁻¹, from the first column on: U_ij = −(Σ_{i ≤ c < j} U_ic R_cj) U_jj.
  for (int64_t j = 0; j < tiles; ++j) {
    const int64_t k = width(j);
    for (int64_t i = 0; i < k; ++i) std::fill_n(h + (j * kT + i) * n, j * kT, 0.0f);
    for (int64_t i = 0; i < j * kT; ++i) std::copy_n(h + i * n + j * kT, k, scratch.column + i * k);
    for (int64_t i = 0; i < j; ++i) {
      const Matrix sum = Matrix::dense(scratch.tile, kT, k);
      std::fill_n(scratch.tile, kT * k, 0.0f);
      for (int64_t c = i; c < j; ++c) multiply(1, at(i, c), column(c, k), 1, sum);
      multiply(-1, sum, at(j, j), 0, at(i, j));
    }
  }
  return true;
}

}  // namespace tenon::sdk
