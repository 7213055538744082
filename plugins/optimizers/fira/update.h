// An update of one matrix under Fira: GaLore's, plus the residual G − P Pᵀ G (or G − G P Pᵀ) with every row or column
// of the long axis scaled by φ = |N| / |R|, the ratio by which Adam changed its projection, and its norm kept from
// growing by more than γ a step.
//
// The residual is never made: (α N − φ R) goes back through the basis in one product, φ G is added to the tile that
// comes out, and |φ (G − P Pᵀ G)|² = Σ φ² (|G|² − |R|²) needs lengths alone.
#pragma once

#include "sdk/galore/update.h"

namespace tenon::sdk::fira {

struct Residual {
  int64_t length;  // of the long axis
  int64_t projected;
  float* r = nullptr;                                        // the projected gradient
  float* phi = nullptr;                                      // [length], the limiter's factor included
  double *of_g = nullptr, *of_r = nullptr, *of_n = nullptr;  // squared lengths

  explicit Residual(const galore::Plan& p) : length(p.left ? p.n : p.m), projected(p.projected()) {}
  void lay_out(Workspace& w) {
    r = w.take<float>(projected), phi = w.take<float>(length);
    of_g = w.take<double>(length), of_r = w.take<double>(length), of_n = w.take<double>(length);
  }
};

class Update : public galore::Update {
 public:
  // alpha: factor of the projected step; inside: factor of P Pᵀ G in the residual. `workspace` begins behind
  // `residual`.
  Update(const tn_exec* exec, const galore::Plan& plan, const Adam8Coder& coder, const tn_item& item, double alpha,
         double inside, double gamma, const Residual& residual, const Workspace& workspace)
      : galore::Update(exec, plan, coder, item, 0, workspace),
        e_(residual),
        alpha_(alpha),
        inside_(inside),
        gamma_(gamma) {}

  galore::Refresh run() {
    const galore::Refresh result = begin();
    if (skip_) return result;
    project();
    copy_values(exec_, b_.projected, e_.r, e_.projected);
    direct();
    scale();
    combine();
    back();
    return result;
  }

  // The phases of run(), public for nvcc, which takes kernels nowhere else.

  // φ, limited, and the norm that the next update is limited by.
  void scale() const {
    const bool rows = !p_.left;
    squared_lengths(exec_, gradient_of(item_), p_.m, p_.n, rows, e_.of_g);
    squared_lengths(exec_, {.f32 = e_.r}, p_.rows(), p_.columns(), rows, e_.of_r);
    squared_lengths(exec_, {.f32 = b_.projected}, p_.rows(), p_.columns(), rows, e_.of_n);
    float* previous = contiguous<float>(item_.states[p_.first_moment() + 2], "residual_norm");
    const double inside = inside_ * (2 - inside_), gamma = gamma_, g2 = item_.grad_scale * item_.grad_scale;
    const Residual e = e_;
    for_each_block(exec_, 1, [=] TN_KERNEL(const Block& block) {
      block.each(e.length, [=](int64_t i) {
        e.phi[i] = static_cast<float>(std::sqrt(e.of_n[i]) / (std::sqrt(g2 * e.of_r[i]) + 1e-8));
      });
      const double squares = block.sum(e.length, [=](int64_t i) {
        const double left = e.of_g[i] - inside * e.of_r[i];  // below 0 by rounding where nothing is left
        return static_cast<double>(e.phi[i]) * e.phi[i] * (left > 0 ? g2 * left : 0);
      });
      const double norm = std::sqrt(squares), last = *previous;
      const double growth = last > 0 ? norm / (last + 1e-8) : 0,
                   limit = last > 0 && growth > gamma ? growth / gamma : 1;
      block.each(e.length, [=](int64_t i) { e.phi[i] = static_cast<float>(e.phi[i] / limit); });
      block.each(1, [=](int64_t) { *previous = static_cast<float>(norm / limit); });
    });
  }

  // N ← α N − inside φ R.
  void combine() const {
    const float *r = e_.r, *phi = e_.phi;
    float* n = b_.projected;
    const float alpha = static_cast<float>(alpha_), inside = static_cast<float>(inside_ * item_.grad_scale);
    const int64_t columns = p_.columns();
    const bool rows = !p_.left;
    for_each_block(
        exec_, p_.rows(),
        [=] TN_KERNEL(const Block& block) {
          const int64_t i = block.index;
          block.each(columns, [=](int64_t j) {
            const int64_t k = i * columns + j;
            n[k] = alpha * n[k] - inside * phi[rows ? i : j] * r[k];
          });
        },
        columns);
  }

  void back() const {
    const Matrix tall = p_.left ? left() : projected();
    const Stored weight = weight_of(item_), grad = gradient_of(item_);
    const float scale = static_cast<float>(item_.grad_scale);
    const float* phi = e_.phi;
    float* tile = b_.tile;
    const int64_t n = p_.n;
    const bool of_rows = !p_.left;
    for (int64_t begin = 0; begin < p_.m; begin += p_.tile_rows()) {
      const int64_t rows = std::min(p_.tile_rows(), p_.m - begin);
      unproject(tall, begin, rows, 1, 0, Matrix::dense(tile, rows, n));
      for_each_block<kChunk * sizeof(float)>(
          exec_, rows,
          [=] TN_KERNEL(const Block& block) {
            const int64_t i = begin + block.index;
            for (int64_t at = 0; at < n; at += kChunk) {
              const Chunk piece(i * n + at, n - at < kChunk ? n - at : kChunk);
              const float* g = grad.read(block, piece, block.shared<float>());
              float* u = tile + block.index * n + at;
              block.each(piece.n, [=](int64_t j) { u[j] += scale * phi[of_rows ? i : at + j] * g[j]; });
            }
          },
          n);
      apply_step(exec_, numbers_, begin * n, rows * n, tile, weight);
    }
  }

 private:
  const Residual& e_;
  double alpha_, inside_, gamma_;
};

}  // namespace tenon::sdk::fira
