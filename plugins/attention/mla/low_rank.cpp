#undef TENON_EMULATED_WAVE  // the host's own memory, in every object
#include "low_rank.h"

#pragma GCC diagnostic ignored "-Wunused-parameter"  // of for_each_block, where a build is without OpenMP
#include "sdk/linalg/eigh.h"

namespace tenon::mla {
namespace {

// gram[n, n] = a aᵀ of a[n, k].
std::vector<double> gram_of_rows(const std::vector<double>& a, int64_t n, int64_t k) {
  std::vector<double> gram(static_cast<size_t>(n * n));
#pragma omp parallel for schedule(dynamic, 8)
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) gram[i * n + j] = gram[j * n + i] = sdk::eigen::dot(&a[i * k], &a[j * k], k);
  return gram;
}

// c[m, n] = a[m, k] · b[k, n]
std::vector<double> product(const std::vector<double>& a, const std::vector<double>& b, int64_t m, int64_t k, int64_t n) {
  std::vector<double> c(static_cast<size_t>(m * n));
#pragma omp parallel for
  for (int64_t i = 0; i < m; ++i)
    for (int64_t p = 0; p < k; ++p) {
      const double f = a[i * k + p];
      const double* const from = &b[p * n];
      double* const to = &c[i * n];
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) to[j] += f * from[j];
    }
  return c;
}

std::vector<double> transposed(const std::vector<double>& a, int64_t m, int64_t n) {
  std::vector<double> t(a.size());
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) t[j * m + i] = a[i * n + j];
  return t;
}

// The leading r eigenvectors of a symmetric matrix as rows; empty: NaN.
std::vector<double> leading(std::vector<double> gram, int64_t n, int64_t r) {
  std::vector<double> values(static_cast<size_t>(r)), vectors(static_cast<size_t>(r * n)), scratch(static_cast<size_t>(sdk::eigh_scratch(n)));
  std::vector<int64_t> order(static_cast<size_t>(n));
  if (!sdk::eigh(nullptr, gram.data(), n, r, values.data(), vectors.data(), scratch.data(), order.data())) return {};
  return vectors;
}

}  // namespace

// Through the Gram matrix of the shorter side. For m <= n the factors are U and Uᵀ a, so that full rank gives the matrix back to f64 rounding
// whatever the accuracy of small singular values.
Factors best_of_rank(const std::vector<double>& a, int64_t m, int64_t n, int64_t r) {
  if (m <= n) {
    const std::vector<double> u = leading(gram_of_rows(a, m, n), m, r);
    if (u.empty()) return {};
    return {transposed(u, r, m), product(u, a, r, m, n)};
  }
  const std::vector<double> at = transposed(a, m, n), v = leading(gram_of_rows(at, n, m), n, r);
  if (v.empty()) return {};
  Factors f{product(a, transposed(v, r, n), m, n, r), v};  // a V, Vᵀ: columns of the first have the singular values for lengths
  for (int64_t k = 0; k < r; ++k) {
    double squares = 0;
    for (int64_t i = 0; i < m; ++i) squares += f.up[i * r + k] * f.up[i * r + k];
    const double sigma = std::sqrt(squares), inverse = sigma > 0 ? 1 / sigma : 0;
    for (int64_t i = 0; i < m; ++i) f.up[i * r + k] *= inverse;
    for (int64_t j = 0; j < n; ++j) f.down[k * n + j] *= sigma;
  }
  return f;
}

}  // namespace tenon::mla
