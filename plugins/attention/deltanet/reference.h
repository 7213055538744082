// DeltaNet's layer as its equations read, token by token in f64: what the chunked f32 plugin is compared with.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "sdk/testing/mixer.h"

namespace tenon::deltanet::testing {

using Values = std::vector<double>;

struct Reference {
  int64_t hidden, heads, kv_heads, d, taps;
  bool silu_qk = true, use_beta = true, negative = false;
  std::map<std::string, Values> w;  // q, k, v, o [out, in]; q_conv1d … [channel, tap]; o_norm; b_proj; g_proj (or empty)
  Values initial = {};              // state [kv head, d, d] before the first token; empty: 0

  static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
  static double silu(double x) { return x * sigmoid(x); }

  Values project(const std::string& name, const Values& x, int64_t rows) const {
    const Values& m = w.at(name);
    const int64_t out = static_cast<int64_t>(m.size()) / hidden;
    Values y(static_cast<size_t>(rows * out));
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t i = 0; i < out; ++i)
        for (int64_t j = 0; j < hidden; ++j) y[t * out + i] += x[t * hidden + j] * m[i * hidden + j];
    return y;
  }
  Values convolved(const std::string& name, const Values& x, int64_t rows, bool activate) const {
    const Values& kernel = w.at(name);
    const int64_t n = static_cast<int64_t>(kernel.size()) / taps;
    Values y(x.size());
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t c = 0; c < n; ++c) {
        double s = 0;
        for (int64_t j = 0; j < taps; ++j)
          if (t - (taps - 1) + j >= 0) s += kernel[c * taps + j] * x[(t - (taps - 1) + j) * n + c];
        y[t * n + c] = activate ? silu(s) : s;
      }
    return y;
  }

  // y of one document; final (optional): the state behind it.
  Values operator()(const Values& x, Values* final = nullptr) const {
    const auto rows = static_cast<int64_t>(x.size()) / hidden;
    const int64_t qw = heads * d, kw = kv_heads * d, group = heads / kv_heads;
    Values q = convolved("q_conv1d", project("q", x, rows), rows, silu_qk), k = convolved("k_conv1d", project("k", x, rows), rows, silu_qk);
    const Values v = convolved("v_conv1d", project("v", x, rows), rows, true);
    const Values logits = use_beta ? project("b_proj", x, rows) : Values();
    const bool gated = w.count("g_proj") && !w.at("g_proj").empty();
    const Values gate = gated ? project("g_proj", x, rows) : Values();
    Values state = initial.empty() ? Values(static_cast<size_t>(kv_heads * d * d)) : initial;
    const auto normalize = [&](double* p, double scale) {
      double s = 1e-6;
      for (int64_t i = 0; i < d; ++i) s += p[i] * p[i];
      for (int64_t i = 0; i < d; ++i) p[i] *= scale / std::sqrt(s);
    };
    Values normed(static_cast<size_t>(rows * qw)), o(static_cast<size_t>(d));
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t g = 0; g < kv_heads; ++g) {
        double *const s = &state[g * d * d], *const key = &k[t * kw + g * d];
        const double* const value = &v[t * kw + g * d];
        normalize(key, 1);
        const double beta = (negative ? 2 : 1) * (use_beta ? sigmoid(logits[t * kv_heads + g]) : 1);
        Values recalled(static_cast<size_t>(d));
        for (int64_t i = 0; i < d; ++i)
          for (int64_t j = 0; j < d; ++j) recalled[j] += key[i] * s[i * d + j];
        for (int64_t i = 0; i < d; ++i)
          for (int64_t j = 0; j < d; ++j) s[i * d + j] += beta * key[i] * (value[j] - recalled[j]);
      }
      for (int64_t h = 0; h < heads; ++h) {
        double* const query = &q[t * qw + h * d];
        normalize(query, 1 / std::sqrt(static_cast<double>(d)));
        const double* const s = &state[h / group * d * d];
        std::fill(o.begin(), o.end(), 0.0);
        double squares = 0;
        for (int64_t j = 0; j < d; ++j) {
          for (int64_t i = 0; i < d; ++i) o[j] += query[i] * s[i * d + j];
          squares += o[j] * o[j];
        }
        for (int64_t j = 0; j < d; ++j) {
          double y = o[j] / std::sqrt(squares / static_cast<double>(d) + 1e-5) * w.at("o_norm")[j];
          if (gated) y *= silu(gate[t * qw + h * d + j]);
          normed[t * qw + h * d + j] = y;
        }
      }
    }
    if (final) *final = state;
    Values y(static_cast<size_t>(rows * hidden));
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t i = 0; i < hidden; ++i)
        for (int64_t j = 0; j < qw; ++j) y[t * hidden + i] += normed[t * qw + j] * w.at("o")[i * qw + j];
    return y;
  }
};

}  // namespace tenon::deltanet::testing
