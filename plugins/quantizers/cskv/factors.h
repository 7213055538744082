// The low-rank factors of a projection: W ≈ B A, the best for the inputs that it meets.
//
// The squared error of (W − B A) x over inputs with the Gram matrix G is least for B = U, A = Uᵀ W, where U are the leading eigenvectors of
// W G Wᵀ: what training both factors against the reconstruction error converges to, in closed form. G = diag(σ²) is the activation-weighted
// SVD, G = I the plain one.
#pragma once

#include "sdk/codec.h"
#include "sdk/linalg/eigh.h"
#include "sdk/linalg/matrix.h"
#include "sdk/workspace.h"

namespace tenon::cskv {

enum class Fit { kGram, kWeighted, kPlain };

struct FitScratch {
  float *weighted, *covariance;
  double *square, *values, *vectors, *eigen;
  int64_t* order;
  float* basis;
  uint64_t products;
  FitScratch(sdk::Workspace& w, int64_t m, int64_t n, int64_t rank)
      : weighted(w.take<float>(m * n)),
        covariance(w.take<float>(m * m)),
        square(w.take<double>(m * m)),
        values(w.take<double>(rank)),
        vectors(w.take<double>(rank * m)),
        eigen(w.take<double>(sdk::eigh_scratch(m))),
        order(w.take<int64_t>(m)),
        basis(w.take<float>(rank * m)),
        products(w.mark()) {}
};

// Bytes that the products of one fit need behind the scratch.
inline uint64_t fit_products(const sdk::Products& products, int64_t m, int64_t n, int64_t rank) {
  const auto f = [](int64_t r, int64_t c) { return sdk::Matrix::dense(static_cast<float*>(nullptr), r, c); };
  return std::max({products.measure(f(m, n), f(n, n), f(m, n)), products.measure(f(m, n), f(n, n), f(m, n), 0.5), products.measure(f(m, n), f(m, n).transposed(), f(m, m)),
                   products.measure(f(rank, m), f(m, n), f(rank, n))});
}

// a [rank, n] and b [m, rank] of w [m, n]. gram [n, n] over `tokens` tokens, or null for the plain fit. False: w or gram holds NaN or Inf.
inline bool fit_factors(const tn_exec* exec, const sdk::Products& products, Fit fit, double alpha, float* w, int64_t m, int64_t n, const float* gram,
                        int64_t tokens, int64_t rank, const FitScratch& s, float* a, float* b) {
  if (rank == m) {  // nothing is left out
    std::copy(w, w + m * n, a);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < m; ++j) b[i * m + j] = i == j;
    return true;
  }
  const auto dense = [](float* p, int64_t r, int64_t c) { return sdk::Matrix::dense(p, r, c); };
  const double inverse = 1.0 / static_cast<double>(std::max<int64_t>(tokens, 1));
  if (fit == Fit::kGram) {
    products(inverse, dense(w, m, n), dense(const_cast<float*>(gram), n, n), 0, dense(s.weighted, m, n));
  } else {
    for (int64_t j = 0; j < n; ++j) {
      // σ² of the mean square of this channel
      const double weight = fit == Fit::kPlain ? 1.0 : std::pow(std::sqrt(gram[j * n + j] * inverse) + 1e-6, 2 * alpha);
      for (int64_t i = 0; i < m; ++i) s.weighted[i * n + j] = static_cast<float>(w[i * n + j] * weight);
    }
  }
  products(1, dense(s.weighted, m, n), dense(w, m, n).transposed(), 0, dense(s.covariance, m, m));
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < m; ++j) s.square[i * m + j] = 0.5 * (double{s.covariance[i * m + j]} + s.covariance[j * m + i]);
  if (!sdk::eigh(exec, s.square, m, rank, s.values, s.vectors, s.eigen, s.order)) return false;
  for (int64_t k = 0; k < rank; ++k)
    for (int64_t i = 0; i < m; ++i) s.basis[k * m + i] = b[i * rank + k] = static_cast<float>(s.vectors[k * m + i]);
  products(1, dense(s.basis, rank, m), dense(w, m, n), 0, dense(a, rank, n));
  return true;
}

}  // namespace tenon::cskv
