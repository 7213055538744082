// Dense linear algebra in double for the oracles of tests: short, slow and independent of the SDK's.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace tenon::reference {

using Values = std::vector<double>;

// A[p, d] = Σ σ_k u_k v_kᵀ: right singular vectors v_k as rows, σ falling. Hestenes' rotations of the columns.
struct Svd {
  Values sigma, v;  // [d], [d, d]
  Svd(const Values& a, size_t p, size_t d) : sigma(d), v(d * d) {
    std::vector<Values> column(d, Values(p)), basis(d, Values(d));
    for (size_t j = 0; j < d; ++j) {
      for (size_t i = 0; i < p; ++i) column[j][i] = a[i * d + j];
      basis[j][j] = 1;
    }
    for (int sweep = 0; sweep < 60; ++sweep) {
      bool turned = false;
      for (size_t i = 0; i < d; ++i) {
        for (size_t j = i + 1; j < d; ++j) {
          const auto dot = [](const Values& x, const Values& y) {
            return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
          };
          const double alpha = dot(column[i], column[i]), beta = dot(column[j], column[j]),
                       gamma = dot(column[i], column[j]);
          if (gamma == 0 || std::abs(gamma) <= 1e-15 * std::sqrt(alpha * beta)) continue;
          turned = true;
          const double zeta = (beta - alpha) / (2 * gamma),
                       t = std::copysign(1, zeta) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
          const double c = 1 / std::sqrt(1 + t * t), s = c * t;
          const auto turn = [&](Values& x, Values& y) {
            for (size_t k = 0; k < x.size(); ++k) {
              const double f = x[k];
              x[k] = c * f - s * y[k], y[k] = s * f + c * y[k];
            }
          };
          turn(column[i], column[j]), turn(basis[i], basis[j]);
        }
      }
      if (!turned) break;
    }
    Values size(d);
    std::vector<size_t> order(d);
    for (size_t j = 0; j < d; ++j)
      size[j] = std::sqrt(std::inner_product(column[j].begin(), column[j].end(), column[j].begin(), 0.0)), order[j] = j;
    std::stable_sort(order.begin(), order.end(), [&](size_t x, size_t y) { return size[x] > size[y]; });
    for (size_t k = 0; k < d; ++k) {
      sigma[k] = size[order[k]];
      std::copy(basis[order[k]].begin(), basis[order[k]].end(), v.begin() + static_cast<std::ptrdiff_t>(k * d));
    }
  }
};

inline Values transposed(const Values& a, size_t rows, size_t columns) {
  Values t(a.size());
  for (size_t i = 0; i < rows; ++i)
    for (size_t j = 0; j < columns; ++j) t[j * rows + i] = a[i * columns + j];
  return t;
}
inline Values product(const Values& a, const Values& b, size_t m, size_t k, size_t n) {
  Values c(m * n);
  for (size_t i = 0; i < m; ++i)
    for (size_t p = 0; p < k; ++p)
      for (size_t j = 0; j < n; ++j) c[i * n + j] += a[i * k + p] * b[p * n + j];
  return c;
}

}  // namespace tenon::reference
