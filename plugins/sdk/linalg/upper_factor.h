// The triangular factor that column-wise compensation (optimal brain surgeon, GPTQ) needs: U upper triangular with H⁻¹ = Uᵀ U, for a
// symmetric positive definite H[n, n] in f32.
//
// H = R Rᵀ with R upper triangular is a Cholesky factorization taken from the last column to the first, and U = R⁻¹: one factorization and
// one triangular inverse, where factor, inverse and factor again would cost twice the FLOPs. Both go by panels: the small diagonal blocks
// in f64 here, everything else products on the device.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "sdk/linalg/matrix.h"
#include "sdk/workspace.h"

namespace tenon::sdk {

inline constexpr int64_t kFactorPanel = 128;

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
  float *panel = nullptr, *diagonal = nullptr;
  FactorScratch() = default;  // for measuring
  FactorScratch(Workspace& w, int64_t n) : panel(w.take<float>(n * kFactorPanel)), diagonal(w.take<float>(kFactorPanel * kFactorPanel)) {}
};

// h[n, n] (its upper triangle is read) → U in the upper triangle, zero below. False, with h destroyed: h is not positive definite.
// multiply(alpha, a, b, beta, c) is Products, or one that only measures: then nothing is read or written.
template <class Multiply>
bool factor_inverse(const Multiply& multiply, float* h, int64_t n, const FactorScratch& scratch, bool measuring = false) {
  const auto at = [&](int64_t i, int64_t j, int64_t rows, int64_t columns) {
    return Matrix{measuring ? nullptr : h + i * n + j, kF32, rows, columns, n, 1};
  };
  const auto panel_rows = [&](int64_t begin, int64_t rows, int64_t k) {
    return Matrix::dense(measuring ? nullptr : scratch.panel + begin * k, rows, k);
  };
  const int64_t blocks = (n + kFactorPanel - 1) / kFactorPanel;
  const auto width = [&](int64_t j) { return std::min(kFactorPanel, n - j); };
  std::vector<double> r(kFactorPanel * kFactorPanel), inverse(kFactorPanel * kFactorPanel);

  // R, from the last panel of columns to the first. Diagonal blocks end as R⁻¹, which is what both halves use.
  for (int64_t b = blocks; b-- > 0;) {
    const int64_t j = b * kFactorPanel, k = width(j);
    if (!measuring) {
      if (!upper::factor_diagonal(h + j * n + j, n, k, r.data(), inverse.data())) return false;
      for (int64_t i = 0; i < k; ++i)
        for (int64_t c = 0; c < k; ++c) h[(j + i) * n + j + c] = scratch.diagonal[i * k + c] = static_cast<float>(inverse[i * k + c]);
    }
    if (j == 0) break;
    multiply(1.0, at(0, j, j, k), Matrix::dense(scratch.diagonal, k, k).transposed(), 0.0, panel_rows(0, j, k));  // R[:j, J] = A[:j, J] R_JJ⁻ᵀ
    for (int64_t i = 0; i < j && !measuring; ++i) std::copy_n(scratch.panel + i * k, k, h + i * n + j);
    for (int64_t c = 0; c < j; c += kFactorPanel)  // A −= R[:, J] R[:, J]ᵀ, the upper triangle alone
      multiply(-1.0, panel_rows(0, c + width(c), k), panel_rows(c, width(c), k).transposed(), 1.0, at(0, c, c + width(c), width(c)));
  }
  // U = R⁻¹, from the first panel on: U[:j, J] = −U[:j, :j] R[:j, J] U_JJ.
  for (int64_t j = 0; j < n; j += kFactorPanel) {
    const int64_t k = width(j);
    if (!measuring) {
      for (int64_t i = 0; i < k; ++i) std::fill_n(h + (j + i) * n, j, 0.0f);
      for (int64_t i = 0; i < j; ++i) std::copy_n(h + i * n + j, k, scratch.panel + i * k);
    }
    for (int64_t i = 0; i < j; i += kFactorPanel)  // row block i of U has nothing left of i
      multiply(1.0, at(i, i, kFactorPanel, j - i), panel_rows(i, j - i, k), 0.0, at(i, j, kFactorPanel, k));
    if (j == 0) continue;
    multiply(-1.0, at(0, j, j, k), at(j, j, k, k), 0.0, panel_rows(0, j, k));
    for (int64_t i = 0; i < j && !measuring; ++i) std::copy_n(scratch.panel + i * k, k, h + i * n + j);
  }
  return true;
}

}  // namespace tenon::sdk
