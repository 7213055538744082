// The weights that every document begins with, as parameters of the model: whole, or W0 and W2 as products of low rank over half an identity.
#pragma once

#include "gradient_kernels.h"
#include "kernels.h"
#include "sdk/mixer.h"

namespace tenon::lact {

using sdk::shift;

class InitialWeights {
 public:
  InitialWeights(const Layout& layout, int64_t rank) : at_(layout), rank_(rank) {}

  void declare(const sdk::MixerDeclarer& to) {
    const int64_t out = at_.heads * at_.h;
    const auto matrix = [&](const char* key, int64_t m, int64_t n) { return to.numbers(key, m, n, TN_ROLE_OTHER, 1); };
    if (rank_ == 0) {
      w0_ = matrix("w0.weight", out, at_.d), w2_ = matrix("w2.weight", out, at_.d);
    } else {
      left_[0] = matrix("w0_left.weight", out, rank_), right_[0] = matrix("w0_right.weight", at_.heads * rank_, at_.d);
      left_[1] = matrix("w2_left.weight", out, rank_), right_[1] = matrix("w2_right.weight", at_.heads * rank_, at_.d);
    }
    w1_ = matrix("w1.weight", at_.heads * at_.d, at_.h);
  }

  // gain: of the factors of low rank.
  void start(const sdk::MixerPass& p, const tn_rng& rng, double gain) const {
    const auto fill = [&](uint32_t param, double deviation) {
      const tn_rng key{rng.seed, rng.uid + param, rng.stream};
      sdk::for_each(p.exec(), sdk::count(p.value(param)), sdk::FillNormal{key, static_cast<float>(deviation), const_cast<float*>(p.numbers(param)), false});
    };
    const double of_d = 1 / std::sqrt(static_cast<double>(at_.d)), of_h = 1 / std::sqrt(static_cast<double>(at_.h));
    fill(w1_, of_h);
    if (rank_ == 0) return fill(w0_, of_d), fill(w2_, of_d);
    for (int i = 0; i < 2; ++i) fill(left_[i], gain / std::sqrt(static_cast<double>(rank_))), fill(right_[i], gain * of_d);
  }

  // W0, W2 and W1 behind one another.
  float* values(const sdk::MixerPass& p) const {
    float* const to = p.floats(at_.size());
    for (int i = 0; i < 2; ++i) {
      float* const part = shift(to, i * at_.part());
      if (rank_ == 0) {
        p.copy(p.numbers(i ? w2_ : w0_), part, at_.part());
      } else {
        p.product(1, left(p, i), right(p, i), 0, whole(part));
        if (!p.plans()) sdk::for_each(p.exec(), at_.part(), AddIdentity{at_.h, at_.d, part});
      }
    }
    p.copy(p.numbers(w1_), shift(to, 2 * at_.part()), at_.part());
    return to;
  }

  // The parameters' gradients += what d says.
  void backward(const sdk::MixerPass& p, float* d) const {
    for (int i = 0; i < 2; ++i) {
      float* const part = shift(d, i * at_.part());
      if (rank_ == 0) {
        add(p, i ? w2_ : w0_, part);
        continue;
      }
      if (p.grad(left_[i])) p.product(1, whole(part), right(p, i).transposed(), 1, factor(p.numbers_grad(left_[i]), at_.h, rank_));
      if (p.grad(right_[i])) p.product(1, left(p, i).transposed(), whole(part), 1, factor(p.numbers_grad(right_[i]), rank_, at_.d));
    }
    add(p, w1_, shift(d, 2 * at_.part()));
  }

 private:
  sdk::Matrices whole(float* x) const { return sdk::Matrices::dense(x, at_.heads, at_.h, at_.d); }
  sdk::Matrices factor(const float* x, int64_t rows, int64_t columns) const { return sdk::Matrices::dense(const_cast<float*>(x), at_.heads, rows, columns); }
  sdk::Matrices left(const sdk::MixerPass& p, int i) const { return factor(p.numbers(left_[i]), at_.h, rank_); }
  sdk::Matrices right(const sdk::MixerPass& p, int i) const { return factor(p.numbers(right_[i]), rank_, at_.d); }
  void add(const sdk::MixerPass& p, uint32_t param, const float* d) const {
    if (float* const g = p.numbers_grad(param)) sdk::for_each(p.exec(), at_.part(), Add{g, d, g});
  }

  Layout at_;
  int64_t rank_;
  uint32_t w0_ = 0, w1_ = 0, w2_ = 0, left_[2] = {}, right_[2] = {};
};

}  // namespace tenon::lact
