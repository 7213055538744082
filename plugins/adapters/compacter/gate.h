// What the output of a bottleneck is multiplied by (VL-PET, Hu et al. 2023): sigmoid of a logit for each channel, for each token, or for each
// element by a second bottleneck, all of the bottleneck's own input.
#pragma once

#include "kronecker.h"
#include "sdk/adapter/activation.h"

namespace tenon::compacter {

enum class GateKind { kNone, kChannel, kToken, kLarge };

struct Gate {
  GateKind kind = GateKind::kNone;
  KroneckerMap down{}, up{};  // of kLarge

  // Null where measuring. channel: weight [d]; token: weight [d], bias [1].
  struct Values {
    const float *weight = nullptr, *bias = nullptr;
    KroneckerMap::Factors down, up;
  };
  struct Gradients {
    float *weight = nullptr, *bias = nullptr;
    KroneckerMap::Gradients down, up;
  };

  // l[T, d] = the logits.
  void logits(Scratch& s, const Values& v, const Matrix& x, const Matrix& l) const {
    const uint64_t mark = s.mark();
    const int64_t n = x.columns;
    if (kind == GateKind::kLarge) {
      const Matrix z = s.activations(x.rows, down.out), a = s.activations(x.rows, down.out);
      down.forward(s, v.down, x, z);
      if (!s.measures()) gelu_forward(s.exec(), z, a);
      up.forward(s, v.up, a, l);
    } else if (!s.measures()) {
      const bool token = kind == GateKind::kToken;
      TN_TYPED(T, x.dtype, "the gate's input",
        const T* in = static_cast<const T*>(x.data);
        T* out = static_cast<T*>(l.data);
        const float *w = v.weight, *b = v.bias;
        for_each_block(s.exec(), x.rows, [=] TN_KERNEL(const Block& block) {
          const T* row = in + block.index * n;
          const double sum = token ? block.sum(n, [=](int64_t j) { return static_cast<double>(to_float(row[j])) * w[j]; }) : 0;
          T* to = out + block.index * n;
          block.each(n, [=](int64_t j) { to[j] = from_float<T>(token ? static_cast<float>(sum) + b[0] : w[j]); });
        }, n););
    }
    s.release(mark);
  }

  // y += factor · sigmoid(l) ⊙ out.
  static void add(Scratch& s, double factor, const Matrix& l, const Matrix& out, const Matrix& y) {
    const float k = static_cast<float>(factor);
    TN_TYPED(T, l.dtype, "a gate",
      const T *logit = static_cast<const T*>(l.data), *in = static_cast<const T*>(out.data);
      T* to = static_cast<T*>(y.data);
      for_each(s.exec(), l.rows * l.columns, [=] TN_KERNEL(int64_t i) {
        to[i] = from_float<T>(to_float(to[i]) + k * to_float(in[i]) / (1.0f + std::exp(-to_float(logit[i]))));
      }););
  }
  // Of y = sigmoid(l) ⊙ out: dy becomes the gradient of out, l that of the logits.
  static void split(Scratch& s, const Matrix& out, const Matrix& l, const Matrix& dy) {
    TN_TYPED(T, l.dtype, "a gate",
      const T* in = static_cast<const T*>(out.data);
      T *logit = static_cast<T*>(l.data), *d = static_cast<T*>(dy.data);
      for_each(s.exec(), l.rows * l.columns, [=] TN_KERNEL(int64_t i) {
        const float g = 1.0f / (1.0f + std::exp(-to_float(logit[i]))), v = to_float(d[i]);
        logit[i] = from_float<T>(v * to_float(in[i]) * g * (1.0f - g));
        d[i] = from_float<T>(v * g);
      }););
  }

  // dl, gradient of the logits: parameter gradients where wanted, added; dx += its share (null: not wanted).
  void backward(Scratch& s, const Values& v, const Gradients& g, const Matrix& x, const Matrix& dl, const Matrix* dx) const {
    const uint64_t mark = s.mark();
    if (kind == GateKind::kLarge) {
      const Matrix z = s.activations(x.rows, down.out), a = s.activations(x.rows, down.out), d = s.activations(x.rows, down.out);
      down.forward(s, v.down, x, z);
      if (!s.measures()) gelu_forward(s.exec(), z, a);
      up.backward(s, v.up, g.up, a, dl, &d);
      if (!s.measures()) gelu_backward(s.exec(), d, z, d);
      const Matrix wide = s.activations(x.rows, x.columns);
      down.backward(s, v.down, g.down, x, d, dx ? &wide : nullptr);
      if (dx && !s.measures()) add_scaled(s.exec(), 1, wide, *dx);
    } else if (kind == GateKind::kChannel) {
      if (!s.measures() && g.weight) add_bias_gradient(s.exec(), dl, g.weight);
    } else {
      token_backward(s, v, g, x, dl, dx);
    }
    s.release(mark);
  }

  // What serves the functions above, public for nvcc, which takes kernels nowhere else.

  static void token_backward(Scratch& s, const Values& v, const Gradients& g, const Matrix& x, const Matrix& dl, const Matrix* dx) {
    const int64_t n = x.columns, rows = x.rows;
    float* of_token = s.take<float>(rows);
    if (s.measures()) return;
    TN_TYPED(T, x.dtype, "the gate's input",
      const T *in = static_cast<const T*>(x.data), *from = static_cast<const T*>(dl.data);
      for_each_block(s.exec(), rows, [=] TN_KERNEL(const Block& block) {
        const T* row = from + block.index * n;
        const double sum = block.sum(n, [=](int64_t j) { return static_cast<double>(to_float(row[j])); });
        block.each(1, [=](int64_t) { of_token[block.index] = static_cast<float>(sum); });
      }, n);
      float *dw = g.weight, *db = g.bias;
      if (dw)
        column_sums(
            s.exec(), rows, n, [=] TN_KERNEL(int64_t t, int64_t j) { return static_cast<double>(of_token[t]) * to_float(in[t * n + j]); },
            [=] TN_KERNEL(int64_t j, double sum) { dw[j] += static_cast<float>(sum); });
      if (db)
        for_each_block(s.exec(), 1, [=] TN_KERNEL(const Block& block) {
          const double sum = block.sum(rows, [=](int64_t t) { return static_cast<double>(of_token[t]); });
          block.each(1, [=](int64_t) { db[0] += static_cast<float>(sum); });
        });
      if (dx) {
        T* to = static_cast<T*>(dx->data);
        const float* w = v.weight;
        for_each(s.exec(), rows * n, [=] TN_KERNEL(int64_t i) { to[i] = from_float<T>(to_float(to[i]) + of_token[i / n] * w[i % n]); });
      });
  }
};

}  // namespace tenon::compacter
