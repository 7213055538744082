// An update of one matrix: refresh of the bases when it is due, projection, Adam there, and the way back. Rules built
// on GaLore derive from it and order the phases themselves.
#pragma once

#include "sdk/device_memory.h"
#include "sdk/galore/projection.h"

namespace tenon::sdk::galore {

struct Refresh {
  bool happened = false, failed = false;
  double energy = 0;  // the captured part of |G|²
};

// The refreshes of a step, for finish().
class Refreshes {
 public:
  bool add(const Refresh& r) {  // false: degraded
    if (r.happened) ++count_, energy_ += r.energy;
    if (r.failed) ++failures_;
    return !r.failed;
  }
  void report(tn_advice& advice, const char* count, const char* energy) {
    if (count_ > 0 && advice.metric) {
      check(advice.metric(advice.self, count, static_cast<double>(count_)));
      check(advice.metric(advice.self, energy, energy_ / static_cast<double>(count_)));
    }
    if (failures_ > 0) advice.flags |= TN_ADVICE_DEGRADED;
    count_ = failures_ = 0, energy_ = 0;
  }

 private:
  int64_t count_ = 0, failures_ = 0;
  double energy_ = 0;
};

// to ← basis in bf16, and back.
inline void round_through(const tn_exec* exec, float* basis, bf16* to, int64_t n) {
  for_each(exec, n, [=] TN_KERNEL(int64_t i) { to[i] = from_float<bf16>(basis[i]), basis[i] = to_float(to[i]); });
}

class Update {
 public:
  Update(const tn_exec* exec, const Plan& plan, const Adam8Coder& coder, const tn_item& item, int64_t offset)
      : Update(exec, plan, coder, item, offset, Workspace(*exec)) {}
  // `workspace`: what the caller leaves of exec's.
  Update(const tn_exec* exec, const Plan& plan, const Adam8Coder& coder, const tn_item& item, int64_t offset,
         const Workspace& workspace)
      : exec_(exec),
        p_(plan),
        s_(*plan.settings),
        coder_(coder),
        item_(item),
        workspace_(workspace),
        b_(plan, workspace_),
        product_(exec->api, exec->device, exec->stream, workspace_.behind(b_.fixed), workspace_.bytes_behind(b_.fixed)),
        numbers_(s_.adam, item) {
    check_count(*item.grad, p_.m * p_.n, "the gradient");
    const bool f32 = same(item.grad->dtype, kF32);
    g_ = {f32 ? static_cast<void*>(contiguous<float>(item.grad, "the gradient"))
              : contiguous<bf16>(item.grad, "the gradient (f32 or bf16)"),
          item.grad->dtype,
          p_.m,
          p_.n,
          p_.n,
          1};
    if (item.n_states < p_.first_moment() + (p_.eight_bit ? 4 : 2))
      fail(TN_E_ARGUMENT,
           "galore: an item came with " + std::to_string(item.n_states) + " states, state_layout declared more");
    due_ = item.t == 1 || (item.t - 1 + offset) % s_.gap == 0;
    numbers_.step *= static_cast<float>(s_.scale);
  }

  Refresh run() {
    const Refresh result = begin();
    if (skip_) return result;
    project();
    direct();
    back();
    return result;
  }

 protected:
  // The bases, refreshed where that is due. skip_: the gradient is not finite and all stays as it is.
  Refresh begin() {
    left_ = p_.left ? basis(0, p_.m, b_.left) : nullptr;
    right_ = p_.right ? basis(p_.left ? 1 : 0, p_.n, b_.right) : nullptr;
    return due_ ? refresh() : Refresh{};
  }

  // The basis in f32: the state itself, or its copy.
  float* basis(uint32_t slot, int64_t d, float* stage) const {
    const tn_tensor& t = *item_.states[slot];
    check_count(t, d * p_.r, "the projector");
    if (!stage) return contiguous<float>(&t, "the projector");
    copy_dense(exec_, {contiguous<bf16>(&t, "the projector"), kBF16, d, p_.r, p_.r, 1}, stage);
    return stage;
  }

  Refresh refresh() {
    Refresh result{.happened = true};
    const bool first = item_.t == 1;
    b_.norm.of(exec_, gradient_of(item_));
    const double norm = value_of(exec_, b_.norm.value);
    if (!std::isfinite(norm)) {  // would poison basis, moments and weight: leave all as they are
      skip_ = true, result.failed = true;
      if (first) unit(left_, p_.m, 0), unit(right_, p_.n, p_.left ? 1 : 0);
      return result;
    }
    if (norm == 0) {  // tells nothing about directions
      result.energy = 1;
      if (first) unit(left_, p_.m, 0), unit(right_, p_.n, p_.left ? 1 : 0);
      return result;
    }
    if (!first && s_.moments == Moments::kReset) reset();
    double energy = 1;
    if (p_.left) result.failed |= !side(left_, p_.m, true, 0, norm, energy);
    if (p_.right) result.failed |= !side(right_, p_.n, false, p_.left ? 1 : 0, norm, energy);
    result.energy = energy;
    return result;
  }

  // One basis. False: the factorization failed and the old basis stands.
  bool side(float* old, int64_t d, bool of_left, uint32_t slot, double norm, double& energy) {
    const bool first = item_.t == 1;
    double captured = 0;
    if (!find_subspace(exec_, product_, of_left ? b_.of_left : b_.of_right, p_.directed(g_, of_left),
                       first ? nullptr : old, item_.rng, plane_start(kPlaneSketch + of_left),
                       first ? kColdIterations : kWarmIterations, b_.fresh, &captured)) {
      if (first) unit(old, d, slot);
      return false;
    }
    energy = std::min(energy, captured / norm);
    fix_signs(exec_, b_.fresh, first ? nullptr : old, d, p_.r);
    if (!first && s_.moments == Moments::kRotate) rotate(old, d, of_left);
    copy_values(exec_, b_.fresh, old, d * p_.r);
    store(old, d, slot);
    return true;
  }
  void unit(float* basis, int64_t d, uint32_t slot) {
    if (!basis) return;
    complete_basis(exec_, basis, d, p_.r, 0);
    store(basis, d, slot);
  }
  // Rounds a staged basis into its state, and goes on with what was stored, as a resumed run does.
  void store(float* basis, int64_t d, uint32_t slot) const {
    if (!same(s_.basis_dtype, kF32)) round_through(exec_, basis, data<bf16>(*item_.states[slot]), d * p_.r);
  }

  void reset() const {
    for (uint32_t i = p_.first_moment(); i < item_.n_states; ++i) {
      const tn_tensor& t = *item_.states[i];
      fill_device(exec_, data<char>(t), 0, static_cast<uint64_t>(count(t)) * t.dtype.bits / 8);
    }
  }

  // The first moment in the coordinates of the fresh basis.
  void rotate(const float* old, int64_t d, bool of_left) const {
    const int64_t r = p_.r, n = p_.projected();
    Adam8States s{};
    float* m = nullptr;
    if (p_.eight_bit) {
      s = adam8_states(item_, p_.first_moment(), n, s_.blocksize), m = b_.moment;
      adam8_decode_first(exec_, s, n, m);
    } else {
      m = contiguous<float>(item_.states[p_.first_moment()], "exp_avg");
    }
    const Matrix turn = Matrix::dense(b_.turn, r, r);
    product_(1, Matrix::dense(const_cast<float*>(old), d, r).transposed(), Matrix::dense(b_.fresh, d, r), 0, turn);
    const Matrix from = Matrix::dense(m, p_.rows(), p_.columns()),
                 to = Matrix::dense(b_.turned, p_.rows(), p_.columns());
    if (of_left)
      product_(1, turn.transposed(), from, 0, to);
    else
      product_(1, from, turn, 0, to);
    if (p_.eight_bit)
      adam8_encode_first(exec_, coder_, b_.turned, n, s);
    else
      copy_values(exec_, b_.turned, m, n);
  }

  Matrix left() const { return Matrix::dense(left_, p_.m, p_.r); }
  Matrix right() const { return Matrix::dense(right_, p_.n, p_.r); }
  Matrix projected() const { return Matrix::dense(b_.projected, p_.rows(), p_.columns()); }

  void project() const {
    if (p_.left && p_.right) {
      const Matrix half = Matrix::dense(b_.half, p_.r, p_.n);
      product_(1, left().transposed(), g_, 0, half);
      product_(1, half, right(), 0, projected());
    } else if (p_.left) {
      product_(1, left().transposed(), g_, 0, projected());
    } else {
      product_(1, g_, right(), 0, projected());
    }
  }

  void direct() const {
    const uint32_t k = p_.first_moment();
    const int64_t n = p_.projected();
    if (p_.eight_bit)
      adam8_direction(exec_, numbers_, coder_, adam8_states(item_, k, n, s_.blocksize), n, b_.projected);
    else
      adam_direction(exec_, numbers_, n, b_.projected, state_of(item_, k, n), state_of(item_, k + 1, n));
  }

  // Rows [begin, begin + rows) of the update: out ← alpha · N back in full size + beta · out.
  void unproject(const Matrix& tall, int64_t begin, int64_t rows, double alpha, double beta, const Matrix& out) const {
    if (p_.right)
      product_(alpha, tall.row_block(begin, rows), right().transposed(), beta, out);
    else
      product_(alpha, tall.row_block(begin, rows), projected(), beta, out);
  }

  void back() const {
    Matrix tall = p_.left ? left() : projected();  // [m, r]
    if (p_.left && p_.right) {
      tall = Matrix::dense(b_.half, p_.m, p_.r);
      product_(1, left(), projected(), 0, tall);
    }
    const Stored weight = weight_of(item_);
    if (weight.f32 && !weight.copy && !weight.b16) {  // the product adds into the weight
      const double keep = 1 - static_cast<double>(numbers_.decay), after = s_.adam.decay_first ? 1 : keep;
      return unproject(tall, 0, p_.m, -static_cast<double>(numbers_.step) * after, keep,
                       Matrix::dense(weight.f32, p_.m, p_.n));
    }
    for (int64_t begin = 0; begin < p_.m; begin += p_.tile_rows()) {
      const int64_t rows = std::min(p_.tile_rows(), p_.m - begin);
      unproject(tall, begin, rows, 1, 0, Matrix::dense(b_.tile, rows, p_.n));
      apply_step(exec_, numbers_, begin * p_.n, rows * p_.n, b_.tile, weight);
    }
  }

  const tn_exec* exec_;
  const Plan& p_;
  const Settings& s_;
  const Adam8Coder& coder_;
  const tn_item& item_;
  Workspace workspace_;
  Buffers b_;
  Products product_;
  AdamNumbers numbers_;
  Matrix g_;
  float *left_ = nullptr, *right_ = nullptr;
  bool due_ = false, skip_ = false;
};

}  // namespace tenon::sdk::galore
