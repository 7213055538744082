// One side of a matrix under SOAP: its covariance, an average of G Gᵀ (or Gᵀ G), and the basis Q of its eigenvectors in
// falling order of their eigenvalues.
//
// The first basis comes from an eigendecomposition of the shorter side and, on the longer side, from the vectors that G pairs
// with it and their complement. Later ones are one step of orthogonal iteration from their predecessor: the columns of C Q in
// the order of their Rayleigh quotients, orthonormalised. A shift of 1e-7 of the trace keeps directions in which C has nothing
// near their old place; it moves no eigenvector.
#pragma once

#include "sdk/linalg/complement.h"
#include "sdk/linalg/eigh.h"
#include "sdk/linalg/norm.h"
#include "sdk/linalg/qr.h"
#include "sdk/philox.h"

namespace tenon::sdk::soap {

struct Basis {
  int64_t n, paired;  // paired: order of the shorter side that this one's first basis is made from, or 0
  BlockQr qr;
  Complement complement;
  float* y = nullptr;           // [n, n]
  double* quotients = nullptr;  // [n]: qᵀ C q
  double* trace = nullptr;
  int64_t* places = nullptr;                                             // [n]: of each old column among the new ones
  double *covariance = nullptr, *vectors = nullptr, *scratch = nullptr;  // exact: f64

  Basis(int64_t n, int64_t paired) : n(n), paired(paired), qr(n, n), complement(n, paired) {}
  void lay_out(Workspace& w) {
    qr.lay_out(w);
    y = w.take<float>(n * n), quotients = w.take<double>(n), trace = w.take<double>(1), places = w.take<int64_t>(n);
    if (is_completed()) complement.lay_out(w);
    if (paired > 0) return;
    covariance = w.take<double>(n * n), vectors = w.take<double>(n * n);
    if (kHostReads) scratch = w.take<double>(eigh_scratch(n));
  }
  bool is_completed() const { return paired > 0 && paired < n; }
  double flops() const {
    return 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) + qr.flops();
  }
  uint64_t measure(const Products& product) const {
    Measure most{product};
    multiply_covariance(most, nullptr, nullptr);
    const uint64_t first = is_completed() ? std::max(of_pairs().measure(product), complement.measure(product)) : 0;
    return std::max({most.most, qr.measure(product), first});
  }

  // q ← the next basis; places tells where each of its columns went.
  void iterate(const tn_exec* exec, const Products& product, const float* c, float* q) const {
    multiply_covariance(product, const_cast<float*>(c), q);
    const int64_t order = n;
    double* e = quotients;
    const float* cq = y;
    for_each_block(
        exec, n,
        [=] TN_KERNEL(const Block& block) {
          const int64_t k = block.index;
          e[k] = block.sum(order, [=](int64_t i) { return static_cast<double>(q[i * order + k]) * cq[i * order + k]; });
        },
        n);
    add_up(exec, e, n, trace);
    int64_t* place = places;
    for_each_block(
        exec, n,
        [=] TN_KERNEL(const Block& block) {
          const int64_t k = block.index;
          const double mine = e[k];
          place[k] = block.sum(order, [=](int64_t i) { return int64_t{e[i] > mine || (e[i] == mine && i < k)}; });
        },
        n);
    const double* all = trace;
    float* to = y;
    for_each(exec, n * n, [=] TN_KERNEL(int64_t i) { to[i] = *all > 0 ? to[i] + static_cast<float>(1e-7 * *all) * q[i] : q[i]; });
    for_each_block(
        exec, n,
        [=] TN_KERNEL(const Block& block) {
          const int64_t row = block.index * order;
          block.each(order, [=](int64_t k) { q[row + place[k]] = to[row + k]; });
        },
        n);
    qr.run(exec, product, q);
  }

  // The first basis of this side's own covariance. False: no convergence, and q is the identity.
  bool start(const tn_exec* exec, const float* c, float* q) const {
    const int64_t order = n;
    for_each(exec, n * n, [=] TN_KERNEL(int64_t i) { q[i] = i % (order + 1) ? 0.0f : 1.0f; });
    double* wide = covariance;
    for_each(exec, n * n, [=] TN_KERNEL(int64_t i) { wide[i] = c[i]; });
    if (!eigh(exec, covariance, n, n, quotients, vectors, scratch, places)) return false;
    if (value_of(exec, quotients) <= 0) return true;  // nothing but zeros
    const double* v = vectors;
    for_each(exec, n * n, [=] TN_KERNEL(int64_t i) { q[i] = static_cast<float>(v[i % order * order + i / order]); });
    return true;
  }

  // The longer side: pairs[n, paired] = Gᵀ U of the shorter side's basis U, which is destroyed, a little noise for directions without a
  // partner, and the orthogonal complement.
  void complete(const tn_exec* exec, const Products& product, float* pairs, double norm, const tn_rng& rng, uint64_t first_draw, float* q) const {
    const int64_t order = n, d = paired;
    const float small = static_cast<float>(1e-6 * norm / std::sqrt(static_cast<double>(n)));
    float* const tall = is_completed() ? y : q;
    for_each(exec, n * d, [=] TN_KERNEL(int64_t i) {
      const float noise = 2 * uniform(rng, first_draw + static_cast<uint64_t>(i)) - 1;
      tall[i] = norm > 0 ? pairs[i] + small * noise : noise;
    });
    of_pairs().run(exec, product, tall);
    if (!is_completed()) return;
    for_each(exec, n * d, [=] TN_KERNEL(int64_t i) { q[i / d * order + i % d] = tall[i]; });
    complement.run(exec, product, tall, pairs, Matrix::dense(q, n, n));
  }

 private:
  BlockQr of_pairs() const {
    BlockQr narrow = qr;
    narrow.k = paired;
    return narrow;
  }
  template <class Product>
  void multiply_covariance(Product& product, float* c, float* q) const {
    product(1, Matrix::dense(c, n, n), Matrix::dense(q, n, n), 0, Matrix::dense(y, n, n));
  }
};

}  // namespace tenon::sdk::soap
