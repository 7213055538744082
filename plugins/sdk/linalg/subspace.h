// The dominant right subspace of a matrix A[p, d]: P[d, r], orthonormal, its columns the first right singular vectors.
//
// exact: the eigenvectors of Aᵀ A or A Aᵀ, whichever is smaller, formed and diagonalised in f64.
// iterated: warm subspace iteration (a randomized range finder when there is no old basis; Halko, Martinsson and Tropp
// 2011) with a few columns more than asked for and a Rayleigh-Ritz step at the end, so that columns are single vectors
// and not just a basis. Large products go to the device; what is left is l×l with l a little above r.
#pragma once

#include "sdk/linalg/cholesky.h"
#include "sdk/linalg/eigh.h"
#include "sdk/linalg/matrix.h"
#include "sdk/philox.h"
#include "sdk/stored.h"
#include "sdk/workspace.h"

namespace tenon::sdk {

// On the host. Fills the zero columns of p[d, r] from `rank` on with unit vectors made orthogonal to all before them.
inline void complete_basis(float* p, int64_t d, int64_t r, int64_t rank) {
  for (int64_t k = rank; k < r; ++k) {
    int64_t axis = 0;
    for (;; ++axis) {
      // The squares of all axes' remainders add up to d − k, so one of them always clears this bar.
      const double bar = 0.5 * static_cast<double>(d - k) / static_cast<double>(d);
      double left = 1;
      for (int64_t j = 0; j < k; ++j) left -= static_cast<double>(p[axis * r + j]) * p[axis * r + j];
      if (left >= bar) break;
    }
    for (int64_t i = 0; i < d; ++i) p[i * r + k] = i == axis;
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t j = 0; j < k; ++j) {
        double s = 0;
        for (int64_t i = 0; i < d; ++i) s += static_cast<double>(p[i * r + k]) * p[i * r + j];
        for (int64_t i = 0; i < d; ++i) p[i * r + k] -= static_cast<float>(s * p[i * r + j]);
      }
      double s = 0;
      for (int64_t i = 0; i < d; ++i) s += static_cast<double>(p[i * r + k]) * p[i * r + k];
      const float scale = static_cast<float>(1 / std::sqrt(s));
      for (int64_t i = 0; i < d; ++i) p[i * r + k] *= scale;
    }
  }
}

inline void complete_basis(const tn_exec* exec, float* p, int64_t d, int64_t r, int64_t rank) {
  if (rank == r) return;
  OnHost<float> basis(exec, p, d * r);
  complete_basis(basis.data(), d, r, rank);
  basis.put_back();
}

// How the subspace of one matrix is found, and the memory for it.
struct Subspace {
  int64_t p, d, r;  // A is [p, d], P is [d, r], r <= min(p, d)
  bool exact;
  int64_t l;              // columns iterated with
  int64_t n;              // order of the small symmetric problem
  float* copy = nullptr;  // exact: A or Aᵀ, the taller one, dense f32
  float *y = nullptr, *q = nullptr,
        *z = nullptr;  // iterated: [p, l], [p, l] and [d, l], q and z sharing; exact with p < d: vectors and Aᵀ U
  double *s = nullptr, *t = nullptr, *values = nullptr, *scratch = nullptr;
  int64_t* order = nullptr;

  static constexpr int64_t kOversampling = 16;

  Subspace(int64_t p, int64_t d, int64_t r, bool exact) : p(p), d(d), r(r), exact(exact) {
    l = std::min(std::min(p, d), r + std::max<int64_t>(kOversampling, r / 8));
    n = exact ? std::min(p, d) : l;
  }
  void lay_out(Workspace& w) {
    if (exact) {
      copy = w.take<float>(p * d);
      if (p < d) y = w.take<float>(p * r), z = w.take<float>(d * r);
    } else {
      y = w.take<float>(p * l), q = w.take<float>(std::max(p, d) * l), z = w.take<float>(d * l);
    }
    s = w.take<double>(n * n), t = w.take<double>(n * n), values = w.take<double>(n);
    if (kHostReads) scratch = w.take<double>(eigh_scratch(n)), order = w.take<int64_t>(n);
  }
  double flops(int iterations) const {
    const double fp = static_cast<double>(p), fd = static_cast<double>(d), fn = static_cast<double>(n);
    if (exact) return 2 * std::max(fp, fd) * fn * fn + 12 * fn * fn * fn;
    return iterations * (4 * fp * fd * fn + 4 * fp * fn * fn) + 4 * fd * fn * fn + 12 * fn * fn * fn;
  }
  // Workspace of the products.
  uint64_t measure(const Products& product, const Matrix& a) const {
    if (exact) return p < d ? product.measure(a.transposed(), Matrix::dense(y, p, r), Matrix::dense(z, d, r)) : 0;
    return std::max(product.measure(a, Matrix::dense(z, d, l), Matrix::dense(y, p, l)),
                    product.measure(a.transposed(), Matrix::dense(q, p, l), Matrix::dense(z, d, l)));
  }
};

// Dense f32 copy of m.
inline void copy_dense(const tn_exec* exec, const Matrix& m, float* out) {
  for_each_block(
      exec, m.rows,
      [=] TN_KERNEL(const Block& block) {
        const Matrix from = m;
        const int64_t columns = m.columns, stride = m.column_stride;
        float* to = out + block.index * columns;
        if (same(from.dtype, kF32)) {
          const float* row = static_cast<const float*>(from.data) + block.index * from.row_stride;
          block.each(columns, [=](int64_t j) { to[j] = row[j * stride]; });
        } else {
          const bf16* row = static_cast<const bf16*>(from.data) + block.index * from.row_stride;
          block.each(columns, [=](int64_t j) { to[j] = to_float(row[j * stride]); });
        }
      },
      m.columns);
}

namespace subspace {

// 1/√value of the k-th eigenvalue; 0 where it is nothing next to the first.
TN_FN double inverse_root(const double* values, int64_t k) {
  return values[k] > 1e-10 * values[0] && values[0] > 0 ? 1 / std::sqrt(values[k]) : 0.0;
}

// How many of the r eigenvalues are something next to the first.
inline int64_t rank_of(const tn_exec* exec, const Subspace& b) {
  OnHost<double> values(exec, b.values, b.r);
  int64_t rank = 0;
  for (int64_t k = 0; k < b.r; ++k) rank += inverse_root(values.data(), k) > 0;
  return rank;
}

inline bool exact(const tn_exec* exec, const Products& product, const Subspace& b, const Matrix& a, float* out,
                  int64_t& rank) {
  const bool wide = b.p < b.d;  // then the small problem is A Aᵀ
  copy_dense(exec, wide ? a.transposed() : a, b.copy);
  gram(exec, b.copy, wide ? b.d : b.p, b.n, b.s);
  if (!eigh(exec, b.s, b.n, b.r, b.values, b.t, b.scratch, b.order)) return false;
  const int64_t n = b.n, r = b.r;
  const double *vectors = b.t, *values = b.values;
  if (!wide) {
    rank = r;  // the eigenvectors are orthonormal whatever their values
    for_each_block(
        exec, b.d,
        [=] TN_KERNEL(const Block& block) {
          const int64_t i = block.index;
          block.each(r, [=](int64_t k) { out[i * r + k] = static_cast<float>(vectors[k * n + i]); });
        },
        r);
    return true;
  }
  // Right vectors: Aᵀ u / σ, made orthonormal once more.
  rank = rank_of(exec, b);
  float* const y = b.y;
  for_each_block(
      exec, b.p,
      [=] TN_KERNEL(const Block& block) {
        const int64_t i = block.index;
        block.each(r, [=](int64_t k) { y[i * r + k] = static_cast<float>(inverse_root(values, k) * vectors[k * n + i]); });
      },
      r);
  product(1, a.transposed(), Matrix::dense(b.y, b.p, b.r), 0, Matrix::dense(b.z, b.d, b.r));
  orthonormalize(exec, b.z, b.d, b.r, out, b.s, b.t);
  return true;
}

inline bool iterated(const tn_exec* exec, const Products& product, const Subspace& b, const Matrix& a, const float* old,
                     const tn_rng& rng, uint64_t first_draw, int iterations, float* out, int64_t& rank) {
  const int64_t l = b.l, r = b.r;
  const float unit = 1 / std::sqrt(static_cast<float>(b.d));
  float* const start = b.z;
  for_each_block(
      exec, b.d,
      [=] TN_KERNEL(const Block& block) {
        const int64_t i = block.index;
        block.each(l, [=](int64_t j) {
          start[i * l + j] = old && j < r ? old[i * r + j] : unit * (2 * uniform(rng, first_draw + static_cast<uint64_t>(i * l + j)) - 1);
        });
      },
      l);
  const Matrix y = Matrix::dense(b.y, b.p, l), z = Matrix::dense(b.z, b.d, l), q = Matrix::dense(b.q, b.p, l);
  for (int k = 0; k < iterations; ++k) {
    if (k > 0) {
      orthonormalize(exec, b.z, b.d, l, b.q, b.s, b.t);
      product(1, a, Matrix::dense(b.q, b.d, l), 0, y);
    } else {
      product(1, a, z, 0, y);
    }
    orthonormalize(exec, b.y, b.p, l, b.q, b.s, b.t);
    product(1, a.transposed(), q, 0, z);
  }
  // z = Aᵀ Q: its singular vectors are those of the compressed matrix Q Qᵀ A.
  gram(exec, b.z, b.d, l, b.s);
  if (!eigh(exec, b.s, l, r, b.values, b.t, b.scratch, b.order)) return false;
  rank = rank_of(exec, b);
  const double *vectors = b.t, *values = b.values;
  double* const turn = b.s;
  for_each_block(
      exec, l,
      [=] TN_KERNEL(const Block& block) {
        const int64_t i = block.index;
        block.each(r, [=](int64_t k) { turn[i * r + k] = inverse_root(values, k) * vectors[k * l + i]; });
      },
      r);
  multiply(exec, b.z, b.d, l, b.s, r, out);
  return true;
}

}  // namespace subspace

// out[d, r] = P. old: the basis so far [d, r], or null. Random columns are the draws of rng from first_draw on.
// captured: the part of |A|² inside, as found. False when the factorization failed (NaN or Inf in A); then out is
// undefined.
inline bool find_subspace(const tn_exec* exec, const Products& product, const Subspace& b, const Matrix& a,
                          const float* old, const tn_rng& rng, uint64_t first_draw, int iterations, float* out,
                          double* captured) {
  int64_t rank = 0;
  const bool done = b.exact ? subspace::exact(exec, product, b, a, out, rank)
                            : subspace::iterated(exec, product, b, a, old, rng, first_draw, iterations, out, rank);
  if (!done) return false;
  complete_basis(exec, out, b.d, b.r, rank);
  OnHost<double> values(exec, b.values, b.r);
  *captured = 0;
  for (int64_t k = 0; k < b.r; ++k) *captured += std::max(0.0, values[k]);
  return true;
}

// Signs are free in every factorization, and states outlive a basis: a column keeps a positive product with its
// predecessor, or, without one, has its entry of largest magnitude positive.
inline void fix_signs(const tn_exec* exec, float* p, const float* old, int64_t d, int64_t r) {
  for_each_block(
      exec, r,
      [=] TN_KERNEL(const Block& block) {
        const int64_t k = block.index;
        bool turned;
        if (old) {
          turned = block.sum(d, [=](int64_t i) { return static_cast<double>(p[i * r + k]) * old[i * r + k]; }) < 0;
        } else {
          // Of entries of one magnitude, the first.
          const float largest = block.max(d, 0.0f, [=](int64_t i) { return std::fabs(p[i * r + k]); });
          const float first = -block.max(d, -static_cast<float>(d), [=](int64_t i) {
            return std::fabs(p[i * r + k]) == largest ? -static_cast<float>(i) : -static_cast<float>(d);
          });
          const int64_t at = static_cast<int64_t>(first);
          turned = block.max(d, 0.0f, [=](int64_t i) { return i == at && p[i * r + k] < 0 ? 1.0f : 0.0f; }) > 0;
        }
        block.each(turned ? d : 0, [=](int64_t i) { p[i * r + k] = -p[i * r + k]; });
      },
      d);
}

}  // namespace tenon::sdk
