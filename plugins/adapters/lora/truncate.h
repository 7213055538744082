// The singular value decomposition of a product B·A of thin factors, at a cost that never sees the full matrix.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace tenon::lora {

// Row-major.
struct Dense {
  int64_t rows = 0, columns = 0;
  std::vector<double> values;
  Dense() = default;
  Dense(int64_t r, int64_t c) : rows(r), columns(c), values(static_cast<size_t>(r * c)) {}
  double& at(int64_t i, int64_t j) { return values[static_cast<size_t>(i * columns + j)]; }
  double at(int64_t i, int64_t j) const { return values[static_cast<size_t>(i * columns + j)]; }
};

inline Dense multiply(const Dense& a, const Dense& b) {
  Dense c(a.rows, b.columns);
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t k = 0; k < a.columns; ++k) {
      const double x = a.at(i, k);
      for (int64_t j = 0; j < b.columns; ++j) c.at(i, j) += x * b.at(k, j);
    }
  return c;
}

inline Dense transposed(const Dense& a) {
  Dense t(a.columns, a.rows);
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t j = 0; j < a.columns; ++j) t.at(j, i) = a.at(i, j);
  return t;
}

// The rows of `a` become orthonormal (or zero, where they depend on earlier ones); returns L with a = L · rows. Gram-Schmidt, twice.
inline Dense orthogonalize_rows(Dense& a) {
  Dense l(a.rows, a.rows);
  for (int64_t i = 0; i < a.rows; ++i) {
    double* x = &a.at(i, 0);
    const double before = std::sqrt(std::inner_product(x, x + a.columns, x, 0.0));
    for (int pass = 0; pass < 2; ++pass)
      for (int64_t k = 0; k < i; ++k) {
        const double* q = &a.at(k, 0);
        const double dot = std::inner_product(x, x + a.columns, q, 0.0);
        l.at(i, k) += dot;
        for (int64_t j = 0; j < a.columns; ++j) x[j] -= dot * q[j];
      }
    const double norm = std::sqrt(std::inner_product(x, x + a.columns, x, 0.0));
    const bool dependent = !(norm > 1e-13 * before);
    l.at(i, i) = dependent ? 0 : norm;
    for (int64_t j = 0; j < a.columns; ++j) x[j] = dependent ? 0 : x[j] / norm;
  }
  return l;
}

// One-sided Jacobi: rotates pairs of rows of `a` until all are orthogonal, and the rows of `v` with them, so that v^T · a is kept.
inline void jacobi_rows(Dense& a, Dense& v) {
  for (int sweep = 0; sweep < 60; ++sweep) {
    bool turned = false;
    for (int64_t p = 0; p < a.rows; ++p)
      for (int64_t q = p + 1; q < a.rows; ++q) {
        double *x = &a.at(p, 0), *y = &a.at(q, 0);
        const double xx = std::inner_product(x, x + a.columns, x, 0.0), yy = std::inner_product(y, y + a.columns, y, 0.0),
                     xy = std::inner_product(x, x + a.columns, y, 0.0);
        if (std::fabs(xy) <= 1e-15 * std::sqrt(xx * yy) || xy == 0) continue;
        turned = true;
        const double zeta = (yy - xx) / (2 * xy), t = (zeta >= 0 ? 1 : -1) / (std::fabs(zeta) + std::sqrt(1 + zeta * zeta)),
                     c = 1 / std::sqrt(1 + t * t), s = c * t;
        const auto rotate = [&](double* u, double* w, int64_t n) {
          for (int64_t j = 0; j < n; ++j) {
            const double a0 = u[j], b0 = w[j];
            u[j] = c * a0 - s * b0, w[j] = s * a0 + c * b0;
          }
        };
        rotate(x, y, a.columns);
        rotate(&v.at(p, 0), &v.at(q, 0), v.columns);
      }
    if (!turned) return;
  }
}

// b · a ≈ left · right, the nearest product of rank `rank` (Eckart and Young): right has the leading right singular vectors as rows, left the
// left ones times their singular values as columns. b [m, R], a [R, n]; rank at most R.
inline void truncate_product(const Dense& b, const Dense& a, int64_t rank, Dense& left, Dense& right) {
  Dense qa = a, qb = transposed(b);
  const Dense la = orthogonalize_rows(qa), lb = orthogonalize_rows(qb);  // b · a = qb^T · (lb^T · la) · qa
  Dense core = multiply(transposed(lb), la), u(core.rows, core.rows);
  for (int64_t i = 0; i < core.rows; ++i) u.at(i, i) = 1;
  jacobi_rows(core, u);  // u^T · core is what core was; the rows of core are the right vectors times their values
  std::vector<double> value(static_cast<size_t>(core.rows));
  for (int64_t i = 0; i < core.rows; ++i) value[i] = std::sqrt(std::inner_product(&core.at(i, 0), &core.at(i, 0) + core.columns, &core.at(i, 0), 0.0));
  std::vector<int64_t> order(value.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return value[i] > value[j]; });
  Dense small_left(core.rows, rank), small_right(rank, core.columns);
  for (int64_t k = 0; k < rank; ++k) {
    const int64_t i = order[static_cast<size_t>(k)];
    const double s = value[static_cast<size_t>(i)];
    for (int64_t j = 0; j < core.columns; ++j) small_right.at(k, j) = s > 0 ? core.at(i, j) / s : 0;
    for (int64_t j = 0; j < core.rows; ++j) small_left.at(j, k) = s * u.at(i, j);
  }
  left = multiply(transposed(qb), small_left);
  right = multiply(small_right, qa);
}

}  // namespace tenon::lora
