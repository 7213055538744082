// FRUGAL over a projection: Adam inside the subspace, the stateless rule on G − P Pᵀ G.
#pragma once

#include "optimizers/frugal/rule.h"
#include "sdk/galore/update.h"

namespace tenon::sdk::frugal {

class Projected : public galore::Update {
 public:
  // kept: [plan.projected()] floats, inside: [a tile]; updates: since the last refresh. A random basis is drawn with
  // `draw`, or, with svd, the gradient's first singular vectors are taken.
  Projected(const tn_exec* exec, const galore::Plan& plan, const Adam8Coder& coder, const tn_item& item,
            const Settings& s, int64_t updates, tn_rng draw, float* kept, float* inside, const Workspace& workspace)
      : galore::Update(exec, plan, coder, item, 0, workspace),
        numbers_of_both_(s, item, updates),
        draw_(draw),
        random_(s.split == Split::kRandom),
        kept_(kept),
        inside_(inside) {
    numbers_ = numbers_of_both_.adam;
  }

  galore::Refresh run() {
    const bool due = due_;
    if (random_) due_ = false;
    const galore::Refresh result = begin();
    if (skip_) return result;
    if (random_ && due) draw_basis();
    project();
    copy_values(exec_, b_.projected, kept_, p_.projected());
    direct();
    back();
    return result;
  }

  // The phases, public for nvcc, which takes kernels nowhere else.

  void draw_basis() {
    float* basis = p_.left ? left_ : right_;
    const int64_t d = p_.left ? p_.m : p_.n;
    float* noise = b_.fresh;
    const tn_rng rng = draw_;
    for_each(exec_, d * p_.r,
             [=] TN_KERNEL(int64_t i) { noise[i] = normal(rng, plane_start(kPlaneSketch) + static_cast<uint64_t>(i)); });
    const Subspace& s = p_.left ? b_.of_left : b_.of_right;
    complete_basis(exec_, basis, d, p_.r, orthonormalize(exec_, noise, d, p_.r, basis, s.s, s.t));
    if (s_.moments == galore::Moments::kReset) reset();
  }

  void back() const {
    const Matrix tall = p_.left ? left() : projected(), kept = Matrix::dense(kept_, p_.rows(), p_.columns());
    const Matrix kept_tall = p_.left ? tall : kept, wide = p_.left ? kept : right().transposed();
    const Stored weight = weight_of(item_), grad = gradient_of(item_);
    const Numbers a = numbers_of_both_;
    float* tile = b_.tile;
    float* inside = inside_;
    const int64_t n = p_.n;
    for (int64_t begin = 0; begin < p_.m; begin += p_.tile_rows()) {
      const int64_t rows = std::min(p_.tile_rows(), p_.m - begin), count = rows * n;
      unproject(tall, begin, rows, 1, 0, Matrix::dense(tile, rows, n));
      product_(1, kept_tall.row_block(begin, rows), wide, 0, Matrix::dense(inside, rows, n));
      const Stored g = grad.from(begin * n), w = weight.from(begin * n);
      for_each_block<2 * kChunk * sizeof(float)>(
          exec_, chunks(count),
          [=] TN_KERNEL(const Block& block) {
            const Chunk chunk(block, count);
            const float* x = g.read(block, chunk, block.shared<float>());
            float* to = w.read(block, chunk, block.shared<float>() + kChunk);
            const float *u = tile + chunk.begin, *r = inside + chunk.begin;
            block.each(chunk.n, [=](int64_t i) {
              const float outside = a.direction((x[i] - r[i]) * a.adam.grad_scale);
              to[i] = stepped(a.adam, to[i], u[i]) - a.outside.step * outside;
            });
            w.write(block, chunk, to);
          },
          kChunk);
    }
  }

 private:
  Numbers numbers_of_both_;
  tn_rng draw_;
  bool random_;
  float *kept_, *inside_;
};

}  // namespace tenon::sdk::frugal
