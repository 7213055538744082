// LaCT's layer as its equations read, in f64, chunk by chunk and token by token: what the plugin is compared with.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "sdk/attention/reference.h"
#include "sdk/testing/mixer.h"

namespace tenon::lact::testing {

using Values = std::vector<double>;

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline double silu(double x) { return x * sigmoid(x); }

// out[m, n] = a[m, k] · b[k, n].
inline Values multiply(const Values& a, const Values& b, int64_t m, int64_t k, int64_t n) {
  Values out(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; ++i)
    for (int64_t p = 0; p < k; ++p)
      for (int64_t j = 0; j < n; ++j) out[i * n + j] += a[i * k + p] * b[p * n + j];
  return out;
}
inline Values transposed(const Values& a, int64_t m, int64_t n) {
  Values out(a.size());
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) out[j * m + i] = a[i * n + j];
  return out;
}
inline Values newton_schulz(Values x, int64_t m, int64_t n) {
  constexpr double kSteps[5][3] = {{4.0848, -6.8946, 2.9270}, {3.9505, -6.3029, 2.6377}, {3.7418, -5.5913, 2.3037}, {2.8769, -3.1427, 1.2046}, {2.8366, -3.0525, 1.2012}};
  if (m > n) return transposed(newton_schulz(transposed(x, m, n), n, m), n, m);
  double squares = 0;
  for (const double v : x) squares += v * v;
  for (double& v : x) v /= std::sqrt(squares) + 1e-7;
  for (const auto& [a, b, c] : kSteps) {
    const Values gram = multiply(x, transposed(x, m, n), m, n, m);
    Values polynomial = multiply(gram, gram, m, m, m);
    for (size_t i = 0; i < gram.size(); ++i) polynomial[i] = b * gram[i] + c * polynomial[i];
    const Values moved = multiply(polynomial, x, m, m, n);
    for (size_t i = 0; i < x.size(); ++i) x[i] = a * x[i] + moved[i];
  }
  return x;
}

// One head's matrices, row-major: w0, w2 [h, d], w1 [d, h].
struct FastHead {
  int64_t d, h;
  Values w0, w1, w2;

  Values apply(const double* x) const {
    Values u(static_cast<size_t>(h)), y(static_cast<size_t>(d));
    for (int64_t i = 0; i < h; ++i) {
      double a = 0, b = 0;
      for (int64_t j = 0; j < d; ++j) a += w0[i * d + j] * x[j], b += w2[i * d + j] * x[j];
      u[i] = silu(a) * b;
    }
    for (int64_t j = 0; j < d; ++j)
      for (int64_t i = 0; i < h; ++i) y[j] += w1[j * h + i] * u[i];
    return y;
  }
  // Gradients of Σ_t v_t · f(k_t), each token at its own rate, added to g.
  void gradient(const double* k, const double* v, const double* rates, FastHead& g) const {
    for (int64_t i = 0; i < h; ++i) {
      double a = 0, b = 0, r = 0;
      for (int64_t j = 0; j < d; ++j) a += w0[i * d + j] * k[j], b += w2[i * d + j] * k[j], r += w1[j * h + i] * v[j];
      const double s = sigmoid(a), slope = s * (1 + a * (1 - s));
      for (int64_t j = 0; j < d; ++j) {
        g.w0[i * d + j] += rates[0] * r * b * slope * k[j];
        g.w1[j * h + i] += rates[1] * a * s * b * v[j];
        g.w2[i * d + j] += rates[2] * r * a * s * k[j];
      }
    }
  }
};

struct Reference {
  sdk::testing::MixerSizes z;
  int64_t chunk = 4, window = 2048, fast_heads = 2, multi = 1, rank = 0;
  bool muon = true, momentum = true, prenorm = false, activation = true, rope = true, scaled = true;
  double base_rate = 0.001;
  std::map<std::string, Values> w;  // q, k, v, o; the mixer's parameters by key

  int64_t n() const { return z.heads * z.d; }
  int64_t d() const { return n() / fast_heads; }
  int64_t h() const { return d() * multi; }
  Values project(const std::string& name, const Values& x, int64_t in) const {
    const Values& m = w.at(name);
    const int64_t out = static_cast<int64_t>(m.size()) / in;
    return multiply(x, transposed(m, out, in), static_cast<int64_t>(x.size()) / in, in, out);
  }
  Values with_bias(const std::string& name, const Values& x) const {
    Values y = project(name + ".weight", x, z.hidden);
    const Values& bias = w.at(name + ".bias");
    for (size_t i = 0; i < y.size(); ++i) y[i] += bias[i % bias.size()];
    return y;
  }
  // Turns the rotary pairs of every head of `width`; a row's position is its number.
  void rotate(Values& x, int64_t heads, int64_t width) const {
    for (size_t row = 0; row * heads * width < x.size(); ++row)
      for (int64_t head = 0; head < heads; ++head)
        for (int64_t i = 0; i < width / 2; ++i) {
          double &a = x[(row * heads + head) * width + i], &b = x[(row * heads + head) * width + width / 2 + i];
          const double angle = static_cast<double>(row) * z.inv_freq[i], c = std::cos(angle), s = std::sin(angle), before = a;
          a = before * c - b * s, b = b * c + before * s;
        }
  }

  FastHead initial(int64_t head) const {
    const auto part = [&](const std::string& key, int64_t size) {
      const auto from = w.at(key).begin() + head * size;
      return Values(from, from + size);
    };
    const auto factors = [&](const std::string& name) {
      Values m = multiply(part(name + "_left.weight", h() * rank), part(name + "_right.weight", rank * d()), h(), rank, d());
      for (int64_t i = 0; i < std::min(h(), d()); ++i) m[i * d() + i] += 0.5;
      return m;
    };
    const int64_t size = h() * d();
    return {d(), h(), rank ? factors("w0") : part("w0.weight", size), part("w1.weight", size), rank ? factors("w2") : part("w2.weight", size)};
  }

  // The rows [rows, n] that fast weights read; which: 0 queries, 1 keys, 2 values.
  Values features(const Values& x, int which) const {
    const int64_t heads = which == 0 ? z.heads : z.kv_heads, group = z.heads / heads, rows = static_cast<int64_t>(x.size()) / (heads * z.d);
    Values y(static_cast<size_t>(rows * n()));
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t i = 0; i < n(); ++i) {
        double v = x[t * heads * z.d + i / z.d / group * z.d + i % z.d];
        if (which < 2) v = v * w.at("qk_scale.weight")[2 * i + which] + w.at("qk_offset.weight")[2 * i + which];
        y[t * n() + i] = activation ? silu(v) : v;
      }
      for (int64_t head = 0; which < 2 && head < fast_heads; ++head) {
        double* const p = &y[t * n() + head * d()];
        double squares = 0;
        for (int64_t i = 0; i < d(); ++i) squares += p[i] * p[i];
        for (int64_t i = 0; i < d(); ++i) p[i] /= std::sqrt(squares) + 1e-5;
      }
    }
    if (rope && which < 2) rotate(y, z.heads, z.d);
    return y;
  }

  // What one head's fast weights say of a document, and (optional) the weights that they end with.
  Values fast(int64_t head, const Values& q, const Values& k, const Values& v, const Values& rates, const Values& momenta, FastHead* last = nullptr) const {
    const int64_t rows = static_cast<int64_t>(q.size()) / n(), size = h() * d();
    const FastHead start = initial(head);
    FastHead use = start, raw = start, m{d(), h(), Values(size), Values(size), Values(size)};
    Values o(static_cast<size_t>(rows * d()));
    for (int64_t begin = 0; begin < rows; begin += chunk) {
      if (begin > 0) {
        FastHead g{d(), h(), Values(size), Values(size), Values(size)};
        double mean = 0;
        for (int64_t t = begin - chunk; t < begin; ++t) {
          use.gradient(&k[t * n() + head * d()], &v[t * n() + head * d()], &rates[(t * fast_heads + head) * 3], g);
          if (momentum) mean += momenta[t * fast_heads + head] / static_cast<double>(chunk);
        }
        const auto step = [&](Values FastHead::*part, int64_t out, int64_t in) {
          Values& moving = m.*part;
          for (int64_t i = 0; i < size; ++i) moving[i] = (g.*part)[i] + mean * moving[i];
          const Values by = muon ? newton_schulz(moving, out, in) : moving;
          Values sum = prenorm ? raw.*part : use.*part;
          for (int64_t i = 0; i < size; ++i) sum[i] += by[i];
          raw.*part = sum;
          for (int64_t r = 0; r < out; ++r) {
            double now = 0, then = 0;
            for (int64_t i = 0; i < in; ++i) now += sum[r * in + i] * sum[r * in + i], then += (start.*part)[r * in + i] * (start.*part)[r * in + i];
            for (int64_t i = 0; i < in; ++i) (use.*part)[r * in + i] = sum[r * in + i] / (std::sqrt(now) + 1e-5) * std::sqrt(then);
          }
        };
        step(&FastHead::w0, h(), d()), step(&FastHead::w1, d(), h()), step(&FastHead::w2, h(), d());
      }
      for (int64_t t = begin; t < std::min(rows, begin + chunk); ++t) {
        const Values y = use.apply(&q[t * n() + head * d()]);
        std::copy(y.begin(), y.end(), o.begin() + t * d());
      }
    }
    if (last) *last = use;
    return o;
  }

  // y of one document.
  Values operator()(const Values& x) const {
    const int64_t rows = static_cast<int64_t>(x.size()) / z.hidden;
    Values q = project("q", x, z.hidden), k = project("k", x, z.hidden);
    const Values v = project("v", x, z.hidden), fast_q = features(q, 0), fast_k = features(k, 1), fast_v = features(v, 2);
    Values rates = with_bias("lr_proj", x), momenta = momentum ? with_bias("momentum_proj", x) : Values();
    const double base = base_rate + std::log(-std::expm1(-base_rate));
    for (double& r : rates) r = std::log1p(std::exp(r + base));
    for (double& m : momenta) m = sigmoid(m);
    const Values gates = scaled ? with_bias("ttt_scale_proj", x) : Values();
    Values sum(static_cast<size_t>(rows * n()));
    if (window > 0) {
      rotate(q, z.heads, z.d), rotate(k, z.kv_heads, z.d);
      sdk::DenseAttention a{1, rows, rows, z.heads, z.kv_heads, z.d, z.d};
      a.mask = {{sizeof(tn_mask_term), TN_MASK_CAUSAL, 0, 0, 0}, {sizeof(tn_mask_term), TN_MASK_WINDOW, (z.window ? std::min(window, z.window) : window) - 1, -1, 0}};
      a.q = q, a.k = k, a.v = v;
      sum = a.forward().o;
    }
    for (int64_t head = 0; head < fast_heads; ++head) {
      const Values o = fast(head, fast_q, fast_k, fast_v, rates, momenta);
      for (int64_t t = 0; t < rows; ++t) {
        double squares = 0;
        for (int64_t i = 0; i < d(); ++i) squares += o[t * d() + i] * o[t * d() + i];
        const double gate = (scaled ? silu(gates[t * fast_heads + head]) : 1) / std::sqrt(squares / static_cast<double>(d()) + 1e-5);
        for (int64_t i = 0; i < d(); ++i) sum[t * n() + head * d() + i] += o[t * d() + i] * gate * w.at("ttt_norm.weight")[i];
      }
    }
    return project("o", sum, n());
  }
};

}  // namespace tenon::lact::testing
