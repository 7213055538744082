// An update of one matrix under COSMOS: P[n, r] follows the leading eigenvectors of the average of Gᵀ G, which is never
// made: S[r, r] is its image in P. Adam acts on the gradient in that basis, Newton-Schulz on what is outside.
#pragma once

#include "sdk/adam.h"
#include "sdk/linalg/newton_schulz.h"
#include "sdk/linalg/qr.h"
#include "sdk/linalg/subspace.h"

namespace tenon::sdk::cosmos {

struct Settings {
  AdamSettings adam;
  double lr_ratio, gamma;
  int64_t rank, ns_steps;
  bool nesterov;
  tn_dtype ns_dtype;
};

struct Plan {
  int64_t m, n, r;
  Plan(const Settings& s, int64_t m, int64_t n) : m(m), n(n), r(std::min(s.rank, n)) {}
  uint64_t state_bytes() const { return 4 * static_cast<uint64_t>(m * n + m * r + n * r + r * r); }
};

inline constexpr int64_t kExactBelow = 256;
inline constexpr int kFirstIterations = 6;

inline void declare_states(const Plan& p, const tn_state_sink& sink) {
  const int64_t whole[] = {p.m, p.n}, second[] = {p.m, p.r}, basis[] = {p.n, p.r}, inner[] = {p.r, p.r};
  declare_slot(sink, "exp_avg", TN_SLOT_VALUE, kF32, 2, whole);
  declare_slot(sink, "exp_avg_sq", TN_SLOT_VALUE, kF32, 2, second);
  declare_slot(sink, "exp_avg_P", TN_SLOT_BASIS, kF32, 2, basis);
  declare_slot(sink, "exp_avg_GG", TN_SLOT_VALUE, kF32, 2, inner);
}

struct Buffers {
  float* blend = nullptr;                                    // [m, n]: averaged gradient, then the direction
  float *seen = nullptr, *turned = nullptr;                  // [m, r]: G P; the average in P
  float *next = nullptr, *turn = nullptr, *image = nullptr;  // [n, r], [r, r], [r, r]
  BlockQr qr;
  SquaredNorm norm;
  Subspace first;
  NewtonSchulz outside;
  uint64_t fixed = 0;

  Buffers(const Settings& settings, const Plan& p, Workspace& w)
      : qr(p.n, p.r),
        norm(p.m * p.n),
        first(p.m, p.n, std::min(p.r, std::min(p.m, p.n)), std::min(p.m, p.n) <= kExactBelow),
        outside(p.m, p.n, settings.ns_dtype, static_cast<int>(settings.ns_steps)) {
    blend = w.take<float>(p.m * p.n);
    seen = w.take<float>(p.m * p.r), turned = w.take<float>(p.m * p.r), next = w.take<float>(p.n * p.r);
    turn = w.take<float>(p.r * p.r), image = w.take<float>(p.r * p.r);
    qr.lay_out(w);
    norm.lay_out(w);
    const uint64_t mark = w.mark();
    first.lay_out(w);
    w.release(mark);
    outside.lay_out(w);
    fixed = w.peak();
  }
};

// The products of an update, run or measured.
struct Steps {
  const Plan& p;
  const Buffers& b;
  float *basis, *inner;

  Matrix tall(float* x) const { return Matrix::dense(x, p.m, p.r); }
  Matrix of_basis(float* x) const { return Matrix::dense(x, p.n, p.r); }
  Matrix small(float* x) const { return Matrix::dense(x, p.r, p.r); }
  Matrix whole(float* x) const { return Matrix::dense(x, p.m, p.n); }

  // seen ← G P.
  template <class Product>
  void see(Product& product, const Matrix& g, float* p_now) const {
    product(1, g, of_basis(p_now), 0, tall(b.seen));
  }
  // next ← β2 P S + Gᵀ seen.
  template <class Product>
  void power(Product& product, const Matrix& g, double beta2) const {
    product(beta2, of_basis(basis), small(inner), 0, of_basis(b.next));
    product(1, g.transposed(), tall(b.seen), 1, of_basis(b.next));
  }
  // S ← β2 Tᵀ S T with T = Pᵀ next.
  template <class Product>
  void carry(Product& product, double beta2) const {
    product(1, of_basis(basis).transposed(), of_basis(b.next), 0, small(b.turn));
    product(1, small(inner), small(b.turn), 0, small(b.image));
    product(beta2, small(b.turn).transposed(), small(b.image), 0, small(inner));
  }
  // S ← beta S + seenᵀ seen.
  template <class Product>
  void gather(Product& product, double beta) const {
    product(1, tall(b.seen).transposed(), tall(b.seen), beta, small(inner));
  }
  // turned ← blend P.
  template <class Product>
  void turn_in(Product& product) const {
    product(1, whole(b.blend), of_basis(basis), 0, tall(b.turned));
  }
  // to ← alpha · turned Pᵀ + beta · to.
  template <class Product>
  void turn_out(Product& product, double alpha, double beta, float* to) const {
    product(alpha, tall(b.turned), of_basis(basis).transposed(), beta, whole(to));
  }
};

inline uint64_t product_bytes(const Settings& s, const Plan& p, const Buffers& b, const Products& product) {
  Measure most{product};
  const Steps steps{p, b, nullptr, nullptr};
  uint64_t first = 0;
  for (const tn_dtype dtype : {kF32, kBF16}) {
    const Matrix g = Matrix::dense(nullptr, dtype, p.m, p.n);
    steps.see(most, g, nullptr), steps.power(most, g, s.adam.beta2);
    first = std::max(first, b.first.measure(product, g));
  }
  steps.carry(most, s.adam.beta2), steps.gather(most, 0), steps.gather(most, 1), steps.turn_in(most);
  steps.turn_out(most, -1, 1, nullptr), steps.turn_out(most, 1, 0, nullptr);
  return std::max({most.most, first, b.outside.measure(product), b.qr.measure(product)});
}

class Update {
 public:
  Update(const tn_exec* exec, const Settings& s, const Plan& plan, const tn_item& item)
      : exec_(exec),
        s_(s),
        p_(plan),
        item_(item),
        workspace_(*exec),
        b_(s, plan, workspace_),
        product_(exec->api, exec->device, exec->stream, workspace_.behind(b_.fixed), workspace_.bytes_behind(b_.fixed)),
        adam_(s.adam, item),
        steps_{p_, b_, state_of(item, 2, p_.n * p_.r).f32, state_of(item, 3, p_.r * p_.r).f32} {
    check_count(*item.grad, p_.m * p_.n, "the gradient");
    g_ = Matrix::of(*item.grad);
  }

  // False: the first subspace was not found, and unit vectors stand in.
  bool run() {
    const bool found = item_.t == 1 ? start() : (follow(), true);
    average();
    steps_.turn_in(product_);
    outside();
    inside();
    finish();
    return found;
  }

  // The phases, public for nvcc, which takes kernels nowhere else.

  // What a fresh square weighs: 1 − β2, the gradient's scale included.
  double fresh() const { return (1 - s_.adam.beta2) * item_.grad_scale * item_.grad_scale; }

  // seen ← factor · G P.
  void see(float* basis, double factor) const {
    steps_.see(product_, g_, basis);
    float* seen = b_.seen;
    const float by = static_cast<float>(factor);
    for_each(exec_, p_.m * p_.r, [=] TN_KERNEL(int64_t i) { seen[i] *= by; });
  }

  // P ← the first r right singular vectors of G, S ← (1 − β2) (G P)ᵀ (G P).
  bool start() const {
    float *basis = steps_.basis, *next = b_.next;
    b_.norm.of(exec_, gradient_of(item_));
    const int64_t r = p_.r, known = b_.first.r;
    double captured = 0;
    const bool tells = value_of(exec_, b_.norm.value) > 0;  // zeros tell nothing about directions
    const bool found = tells && find_subspace(exec_, product_, b_.first, g_, nullptr, item_.rng,
                                              plane_start(kPlaneSketch), kFirstIterations, next, &captured);
    if (found) for_each(exec_, p_.n * known, [=] TN_KERNEL(int64_t i) { basis[i / known * r + i % known] = next[i]; });
    complete_basis(exec_, basis, p_.n, r, found ? known : 0);
    see(basis, std::sqrt(fresh()));
    steps_.gather(product_, 0);
    return found || !tells;
  }

  // P ← qr(β2 P S + (1 − β2) Gᵀ G P), and S along with it.
  void follow() const {
    float *basis = steps_.basis, *next = b_.next;
    const int64_t count = p_.n * p_.r, r = p_.r;
    see(basis, fresh());
    steps_.power(product_, g_, s_.adam.beta2);
    b_.norm.of(exec_, gradient_of(item_));
    // A shift of 1e-7 of the trace holds directions where the gradients have nothing; it moves no eigenvector.
    const double *squares = b_.norm.value, weight = fresh(), beta2 = s_.adam.beta2;
    const float* inner = steps_.inner;
    float* shift = b_.image;
    for_each_block(exec_, 1, [=] TN_KERNEL(const Block& block) {
      const double trace = block.sum(r, [=](int64_t i) { return static_cast<double>(inner[i * (r + 1)]); });
      block.each(1, [=](int64_t) { *shift = static_cast<float>(1e-7 * (beta2 * trace + weight * *squares)) + 1e-30f; });
    });
    for_each(exec_, count, [=] TN_KERNEL(int64_t i) { next[i] += *shift * basis[i]; });
    b_.qr.run(exec_, product_, next);
    steps_.carry(product_, s_.adam.beta2);
    copy_values(exec_, next, basis, count);
    see(basis, std::sqrt(fresh()));
    steps_.gather(product_, 1);
  }

  // exp_avg ← β1 exp_avg + G; blend ← Nesterov's mixture, both as averages.
  void average() const {
    const int64_t n = p_.m * p_.n;
    const Stored grad = gradient_of(item_), sum = state_of(item_, 0, n);
    const double beta1 = s_.adam.beta1, k1 = (1 - std::pow(beta1, static_cast<double>(item_.t))) / (1 - beta1);
    const float keep = static_cast<float>(beta1), scale = static_cast<float>(item_.grad_scale),
                of_g = s_.nesterov ? static_cast<float>(1 / (1 + beta1 * k1)) : 0.0f,
                of_sum = static_cast<float>(s_.nesterov ? beta1 / (1 + beta1 * k1) : 1 / k1);
    float* blend = b_.blend;
    for_each_block<kChunk * sizeof(float)>(
        exec_, chunks(n),
        [=] TN_KERNEL(const Block& block) {
          const Chunk chunk(block, n);
          const float* g = grad.read(block, chunk, block.shared<float>());
          float *m = sum.f32 + chunk.begin, *out = blend + chunk.begin;
          block.each(chunk.n, [=](int64_t i) {
            const float x = g[i] * scale;
            m[i] = std::fma(keep, m[i], x);
            out[i] = of_g * x + of_sum * m[i];
          });
        },
        kChunk);
  }

  // Newton-Schulz on blend − (blend P) Pᵀ; its norm.
  void outside() const {
    steps_.turn_out(product_, -1, 1, b_.blend);
    const int64_t n = p_.m * p_.n;
    const Stored x = b_.outside.values();
    const float* blend = b_.blend;
    for_each_block<kChunk * sizeof(float)>(
        exec_, chunks(n),
        [=] TN_KERNEL(const Block& block) {
          const Chunk chunk(block, n);
          float* out = x.place(chunk, block.shared<float>());
          const float* from = blend + chunk.begin;
          block.each(chunk.n, [=](int64_t i) { out[i] = from[i]; });
          x.write(block, chunk, out);
        },
        kChunk);
    b_.outside.run(exec_, product_);
    b_.norm.of(exec_, x);
  }

  // blend ← Adam's direction in P, back in full size, + γ · what Newton-Schulz made, with root mean square 1.
  void inside() const {
    const int64_t few = p_.m * p_.r, n = p_.m * p_.n;
    float *v = state_of(item_, 1, few).f32, *turned = b_.turned;
    const float* seen = b_.seen;
    const AdamNumbers a = adam_;
    for_each(exec_, few, [=] TN_KERNEL(int64_t i) {
      v[i] = std::fma(seen[i], seen[i], std::fma(-a.a2, v[i], v[i]));  // seen is √(1 − β2) G P
      turned[i] = adam_ratio(a, turned[i], v[i]);
    });
    steps_.turn_out(product_, 1, 0, b_.blend);
    const double *squares = b_.norm.value, eps = s_.adam.eps, unit = s_.gamma * std::sqrt(static_cast<double>(n));
    const Stored x = b_.outside.values();
    float* blend = b_.blend;
    for_each_block<kChunk * sizeof(float)>(
        exec_, chunks(n),
        [=] TN_KERNEL(const Block& block) {
          const Chunk chunk(block, n);
          const float factor = static_cast<float>(unit / (std::sqrt(*squares) + eps));
          const float* z = x.read(block, chunk, block.shared<float>());
          float* out = blend + chunk.begin;
          block.each(chunk.n, [=](int64_t i) { out[i] = std::fma(factor, z[i], out[i]); });
        },
        kChunk);
  }

  // A step of root mean square lr · lr_ratio.
  void finish() const {
    const int64_t n = p_.m * p_.n;
    b_.norm.of(exec_, {.f32 = b_.blend});
    const double *squares = b_.norm.value, eps = s_.adam.eps, unit = std::sqrt(static_cast<double>(n));
    float* factor = b_.image;
    for_each(exec_, 1, [=] TN_KERNEL(int64_t) { *factor = static_cast<float>(unit / (std::sqrt(*squares) + eps)); });
    Step step = adam_;
    step.step = static_cast<float>(item_.lr * s_.lr_ratio);
    const float* blend = b_.blend;
    apply_step(exec_, step, 0, n, weight_of(item_), [=] TN_KERNEL(int64_t i) { return *factor * blend[i]; });
  }

 private:
  const tn_exec* exec_;
  const Settings& s_;
  const Plan& p_;
  const tn_item& item_;
  Workspace workspace_;
  Buffers b_;
  Products product_;
  AdamNumbers adam_;
  Steps steps_;
  Matrix g_;
};

}  // namespace tenon::sdk::cosmos
