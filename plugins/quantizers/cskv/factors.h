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
        eigen(sdk::kHostReads ? w.take<double>(sdk::eigh_scratch(m)) : nullptr),
        order(sdk::kHostReads ? w.take<int64_t>(m) : nullptr),
        basis(w.take<float>(rank * m)),
        products(w.mark()) {}
};

// Bytes that the products of one fit need behind the scratch.
inline uint64_t fit_products(const sdk::Products& products, int64_t m, int64_t n, int64_t rank) {
  const auto f = [](int64_t r, int64_t c) { return sdk::Matrix::dense(static_cast<float*>(nullptr), r, c); };
  return std::max({products.measure(f(m, n), f(n, n), f(m, n)), products.measure(f(m, n), f(n, n), f(m, n), 0.5), products.measure(f(m, n), f(m, n).transposed(), f(m, m)),
                   products.measure(f(rank, m), f(m, n), f(rank, n))});
}

// a [rank, n] and b [m, rank] of w [m, n]. gram [n, n] over `tokens` tokens, null for the plain fit alone. False: w or gram holds NaN or Inf.
inline bool fit_factors(const tn_exec* exec, const sdk::Products& products, Fit fit, double alpha, float* w, int64_t m, int64_t n, const float* gram,
                        int64_t tokens, int64_t rank, const FitScratch& s, float* a, float* b) {
  if (rank == m) {  // nothing is left out
    sdk::copy_values(exec, w, a, m * n);
    sdk::for_each(exec, m * m, [=] TN_KERNEL(int64_t i) { b[i] = i / m == i % m ? 1.0f : 0.0f; });
    return true;
  }
  const auto dense = [](float* p, int64_t r, int64_t c) { return sdk::Matrix::dense(p, r, c); };
  const double inverse = 1.0 / static_cast<double>(std::max<int64_t>(tokens, 1));
  float *const weighted = s.weighted, *const covariance = s.covariance, *const basis = s.basis;
  double *const square = s.square, *const vectors = s.vectors;
  if (fit == Fit::kGram) {
    products(inverse, dense(w, m, n), dense(const_cast<float*>(gram), n, n), 0, dense(weighted, m, n));
  } else {
    sdk::for_each(exec, m * n, [=] TN_KERNEL(int64_t i) {
      // σ² of the mean square of this channel
      const int64_t j = i % n;
      const double weight = gram ? std::pow(std::sqrt(gram[j * n + j] * inverse) + 1e-6, 2 * alpha) : 1.0;
      weighted[i] = static_cast<float>(w[i] * weight);
    });
  }
  products(1, dense(weighted, m, n), dense(w, m, n).transposed(), 0, dense(covariance, m, m));
  sdk::for_each(exec, m * m, [=] TN_KERNEL(int64_t i) { square[i] = 0.5 * (static_cast<double>(covariance[i]) + covariance[i % m * m + i / m]); });
  if (!sdk::eigh(exec, square, m, rank, s.values, vectors, s.eigen, s.order)) return false;
  sdk::for_each(exec, rank * m, [=] TN_KERNEL(int64_t i) {
    const int64_t k = i / m, row = i - k * m;
    basis[i] = b[row * rank + k] = static_cast<float>(vectors[i]);
  });
  products(1, dense(basis, rank, m), dense(w, m, n), 0, dense(a, rank, n));
  return true;
}

}  // namespace tenon::cskv
