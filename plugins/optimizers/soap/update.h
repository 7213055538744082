// An update of one matrix under SOAP: Adam on the gradient seen in the eigenbases of its two covariances.
//
// Adam's first moment lives in the eigenbasis and is turned only when a basis changes; the second one, which no
// rotation can carry over, follows the order of the eigenvectors.
#pragma once

#include "optimizers/soap/basis.h"
#include "sdk/adam.h"
#include "sdk/linalg/norm.h"

namespace tenon::sdk::soap {

struct Settings {
  AdamSettings adam;
  double covariance_beta;
  int64_t frequency, largest;
  bool normalize, correct_bias;
};

// What follows from the shape: sides longer than `largest` keep the plain coordinates.
struct Plan {
  int64_t m, n;
  bool left, right;
  Plan(const Settings& s, int64_t m, int64_t n) : m(m), n(n), left(m <= s.largest), right(n <= s.largest) {}
  explicit Plan(int64_t n) : m(1), n(n), left(false), right(false) {}
  bool turned() const { return left || right; }
  uint64_t state_bytes() const {
    return 4 * static_cast<uint64_t>(2 * m * n + (left ? 2 * m * m : 0) + (right ? 2 * n * n : 0));
  }
  double size() const { return static_cast<double>(m) * static_cast<double>(n); }
};

inline void declare_bases(const Plan& p, const tn_state_sink& sink) {
  const int64_t left[] = {p.m, p.m}, right[] = {p.n, p.n};
  if (p.left) {
    declare_slot(sink, "covariance_left", TN_SLOT_VALUE, kF32, 2, left);
    declare_slot(sink, "basis_left", TN_SLOT_BASIS, kF32, 2, left);
  }
  if (p.right) {
    declare_slot(sink, "covariance_right", TN_SLOT_VALUE, kF32, 2, right);
    declare_slot(sink, "basis_right", TN_SLOT_BASIS, kF32, 2, right);
  }
}

struct Buffers {
  float *a = nullptr, *b = nullptr;  // [m, n]
  SquaredNorm norm;
  Basis left, right;
  uint64_t fixed = 0;

  Buffers(const Plan& p, Workspace& w)
      : norm(p.m * p.n), left(p.m, p.right && p.m > p.n ? p.n : 0), right(p.n, p.left && p.n >= p.m ? p.m : 0) {
    a = w.take<float>(p.m * p.n), b = w.take<float>(p.m * p.n);
    norm.lay_out(w);
    const uint64_t mark = w.mark();
    if (p.left) left.lay_out(w);
    w.release(mark);
    if (p.right) right.lay_out(w);
    fixed = w.peak();
  }
};

// The products of an update, run or measured.
struct Turns {
  const Plan& p;
  float *left, *right;  // bases; null where a side has none

  Matrix whole(float* x) const { return Matrix::dense(x, p.m, p.n); }
  Matrix of_left() const { return Matrix::dense(left, p.m, p.m); }
  Matrix of_right() const { return Matrix::dense(right, p.n, p.n); }

  // to ← Qlᵀ x Qr; `half` is used in between. to may be what x lies in.
  template <class Product>
  void in(Product& product, const Matrix& x, float* half, float* to) const {
    if (p.left && p.right) {
      product(1, of_left().transposed(), x, 0, whole(half));
      product(1, whole(half), of_right(), 0, whole(to));
    } else if (p.left) {
      product(1, of_left().transposed(), x, 0, whole(to));
    } else {
      product(1, x, of_right(), 0, whole(to));
    }
  }
  // x ← Ql x Qrᵀ; returns where it is, x or half.
  template <class Product>
  float* out(Product& product, float* x, float* half) const {
    if (p.left) product(1, of_left(), whole(x), 0, whole(half)), std::swap(x, half);
    if (p.right) product(1, whole(x), of_right().transposed(), 0, whole(half)), std::swap(x, half);
    return x;
  }
  // The upper triangles of β C + (1 − β) G Gᵀ and Gᵀ G, for the gradient at x.
  template <class Product>
  void covariances(Product& product, const Settings& s, float* x, float* c_left, float* c_right) const {
    const Matrix g = whole(x);
    const double beta = s.covariance_beta, alpha = 1 - beta;
    if (p.left) symmetric_product(product, alpha, g, g.transposed(), beta, Matrix::dense(c_left, p.m, p.m));
    if (p.right) symmetric_product(product, alpha, g.transposed(), g, beta, Matrix::dense(c_right, p.n, p.n));
  }
  // Gᵀ U of the shorter side's basis.
  template <class Product>
  void pair(Product& product, const Matrix& g, float* to) const {
    if (p.m <= p.n)
      product(1, g.transposed(), of_left(), 0, Matrix::dense(to, p.n, p.m));
    else
      product(1, g, of_right(), 0, whole(to));
  }
};

inline uint64_t product_bytes(const Settings& s, const Plan& p, const Buffers& b, const Products& product) {
  Measure most{product};
  const Turns turns{p, nullptr, nullptr};
  if (!p.turned()) return 0;
  for (const tn_dtype dtype : {kF32, kBF16}) {
    const Matrix g = Matrix::dense(nullptr, dtype, p.m, p.n);
    turns.in(most, g, nullptr, nullptr);
    if (p.left && p.right) turns.pair(most, g, nullptr);
  }
  turns.out(most, nullptr, nullptr);
  turns.covariances(most, s, nullptr, nullptr, nullptr);
  return std::max({most.most, p.left ? b.left.measure(product) : 0, p.right ? b.right.measure(product) : 0});
}

class Update {
 public:
  Update(const tn_exec* exec, const Settings& s, const Plan& plan, const tn_item& item)
      : exec_(exec),
        s_(s),
        p_(plan),
        item_(item),
        workspace_(*exec),
        b_(plan, workspace_),
        product_(exec->api, exec->device, exec->stream, workspace_.behind(b_.fixed),
                 workspace_.bytes_behind(b_.fixed)) {
    check_count(*item.grad, p_.m * p_.n, "the gradient");
    if (p_.turned()) g_ = Matrix::of(*item.grad);
    uint32_t slot = 2;
    if (p_.left) c_left_ = square(slot++, p_.m), q_left_ = square(slot++, p_.m);
    if (p_.right) c_right_ = square(slot++, p_.n), q_right_ = square(slot++, p_.n);
  }

  // False: a factorization failed.
  bool run() {
    const Turns turns{p_, q_left_, q_right_};
    if (item_.t == 1) {  // no update yet: a gradient is never seen in a basis that it made itself
      learn(turns);
      return start(turns);
    }
    step(turns);
    learn(turns);
    if (p_.turned() && (item_.t - 1) % s_.frequency == 0) refresh(turns);
    return true;
  }

  // The phases, public for nvcc, which takes kernels nowhere else.

  float* square(uint32_t slot, int64_t order) const {
    if (slot >= item_.n_states)
      fail(TN_E_ARGUMENT,
           "soap: an item came with " + std::to_string(item_.n_states) + " states, state_layout declared more");
    check_count(*item_.states[slot], order * order, "a state");
    return contiguous<float>(item_.states[slot], "a state");
  }

  void learn(const Turns& turns) const {
    if (!p_.turned()) return;
    take_gradient(b_.a, item_.grad_scale);
    turns.covariances(product_, s_, b_.a, c_left_, c_right_);
    if (p_.left) mirror(exec_, c_left_, p_.m);
    if (p_.right) mirror(exec_, c_right_, p_.n);
  }

  bool start(const Turns& turns) const {
    if (!p_.turned()) return true;
    const bool left_first = p_.left && (p_.m <= p_.n || !p_.right);
    const bool found = left_first ? b_.left.start(exec_, c_left_, q_left_)
                                  : b_.right.start(exec_, c_right_, q_right_);
    if (p_.left && p_.right) {
      b_.norm.of(exec_, gradient_of(item_));
      turns.pair(product_, g_, b_.a);
      const double norm = std::sqrt(value_of(exec_, b_.norm.value));
      const uint64_t draw = plane_start(kPlaneSketch);
      if (left_first)
        b_.right.complete(exec_, product_, b_.a, norm, item_.rng, draw, q_right_);
      else
        b_.left.complete(exec_, product_, b_.a, norm, item_.rng, draw, q_left_);
    }
    return found;
  }

  void step(const Turns& turns) const {
    const int64_t n = p_.m * p_.n;
    AdamNumbers a(s_.adam, item_, item_.t - 1);
    if (!s_.correct_bias) a.step = static_cast<float>(item_.lr), a.root = 1;
    if (p_.turned())
      turns.in(product_, g_, b_.a, b_.b);
    else
      take_gradient(b_.b, 1);
    adam_direction(exec_, a, n, b_.b, state_of(item_, 0, n), state_of(item_, 1, n));
    const float* u = turns.out(product_, b_.b, b_.a);
    if (!s_.normalize) return apply_step(exec_, a, 0, n, u, weight_of(item_));
    b_.norm.of(exec_, {.f32 = const_cast<float*>(u)});
    const double *squares = b_.norm.value, count = static_cast<double>(n);
    apply_step(exec_, a, 0, n, weight_of(item_),
               [=] TN_KERNEL(int64_t i) { return u[i] * static_cast<float>(1 / (1e-30 + std::sqrt(*squares / count))); });
  }

  void take_gradient(float* to, double by) const {
    const Stored g = gradient_of(item_);
    const int64_t n = p_.m * p_.n;
    const float factor = static_cast<float>(by);
    for_each_block<kChunk * sizeof(float)>(
        exec_, chunks(n),
        [=] TN_KERNEL(const Block& block) {
          const Chunk chunk(block, n);
          const float* x = g.read(block, chunk, block.shared<float>());
          block.each(chunk.n, [=](int64_t i) { to[chunk.begin + i] = factor * x[i]; });
        },
        kChunk);
  }

  // v in the new order of a side's eigenvectors; `other` is used in between.
  void reorder(const Basis& basis, bool rows, float* v, float* other) const {
    const int64_t n = p_.m * p_.n, columns = p_.n;
    const int64_t* place = basis.places;
    for_each(exec_, n, [=] TN_KERNEL(int64_t i) {
      const int64_t row = i / columns, column = i % columns;
      other[rows ? place[row] * columns + column : row * columns + place[column]] = v[i];
    });
    copy_values(exec_, other, v, n);
  }
  void refresh(const Turns& turns) const {
    const int64_t n = p_.m * p_.n;
    float *m = state_of(item_, 0, n).f32, *v = state_of(item_, 1, n).f32, *a = b_.a;
    copy_values(exec_, m, a, n);
    float* plain = turns.out(product_, b_.a, b_.b);  // the first moment in the coordinates of W
    float* other = plain == b_.a ? b_.b : b_.a;
    if (p_.left) b_.left.iterate(exec_, product_, c_left_, q_left_), reorder(b_.left, true, v, other);
    if (p_.right) b_.right.iterate(exec_, product_, c_right_, q_right_), reorder(b_.right, false, v, other);
    turns.in(product_, turns.whole(plain), other, m);
  }

 private:
  const tn_exec* exec_;
  const Settings& s_;
  const Plan& p_;
  const tn_item& item_;
  Workspace workspace_;
  Buffers b_;
  Products product_;
  Matrix g_;
  float *c_left_ = nullptr, *q_left_ = nullptr, *c_right_ = nullptr, *q_right_ = nullptr;
};

}  // namespace tenon::sdk::soap
