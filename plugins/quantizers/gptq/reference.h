// The whole method in plain code and f64: what the fast path is held to.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace tenon::gptq::reference {

struct Options {
  int bits = 4;
  int64_t group = 128;
  double damping = 0.01;
  bool symmetric = false, act_order = false;
};

inline double to_half(double x) { return static_cast<double>(static_cast<_Float16>(x)); }

// h[n, n] symmetric positive definite → U upper with H⁻¹ = Uᵀ U, by the textbook: invert, then factor.
inline std::vector<double> upper_factor(const std::vector<double>& h, int64_t n) {
  std::vector<double> a = h, inverse(n * n);
  for (int64_t i = 0; i < n; ++i) inverse[i * n + i] = 1;
  for (int64_t i = 0; i < n; ++i) {
    const double pivot = a[i * n + i];
    for (int64_t j = 0; j < n; ++j) a[i * n + j] /= pivot, inverse[i * n + j] /= pivot;
    for (int64_t k = 0; k < n; ++k) {
      const double f = a[k * n + i];
      if (k == i || f == 0) continue;
      for (int64_t j = 0; j < n; ++j) a[k * n + j] -= f * a[i * n + j], inverse[k * n + j] -= f * inverse[i * n + j];
    }
  }
  std::vector<double> u(n * n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      double v = inverse[i * n + j];
      for (int64_t k = 0; k < i; ++k) v -= u[k * n + i] * u[k * n + j];
      u[i * n + j] = j == i ? std::sqrt(v) : v / u[i * n + i];
    }
  }
  return u;
}

struct Result {
  std::vector<int> codes;       // [m, n]
  std::vector<double> decoded;  // [m, n]
};

inline Result solve(const std::vector<float>& weights, const std::vector<double>& gram, int64_t m, int64_t n, const Options& o) {
  std::vector<double> diagonal(n);
  for (int64_t j = 0; j < n; ++j) diagonal[j] = gram[j * n + j] == 0 ? 1 : gram[j * n + j];
  const double mean = std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / static_cast<double>(n);
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (o.act_order) std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return diagonal[a] > diagonal[b]; });
  std::vector<double> h(n * n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) h[i * n + j] = i == j ? diagonal[order[i]] + o.damping * mean : gram[order[i] * n + order[j]];
  const std::vector<double> u = upper_factor(h, n);
  const double top = (1 << o.bits) - 1;
  Result r{std::vector<int>(m * n), std::vector<double>(m * n)};
  for (int64_t row = 0; row < m; ++row) {
    std::vector<double> w(n);
    for (int64_t i = 0; i < n; ++i) w[i] = gram[order[i] * n + order[i]] == 0 ? 0 : weights[row * n + order[i]];
    double scale = 1, zero = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (i % o.group == 0) {
        double lo = 0, hi = 0;
        for (int64_t j = i; j < std::min(n, i + o.group); ++j) lo = std::min(lo, w[j]), hi = std::max(hi, w[j]);
        if (o.symmetric) hi = std::max(-lo, hi), lo = lo < 0 ? -hi : lo;
        if (lo == 0 && hi == 0) lo = -1, hi = 1;
        scale = to_half((hi - lo) / top);
        zero = o.symmetric ? 1 << (o.bits - 1) : std::clamp(std::nearbyint(-lo / scale), 0.0, top);
      }
      const double code = std::clamp(std::nearbyint(w[i] / scale) + zero, 0.0, top), q = scale * (code - zero);
      const double e = (w[i] - q) / u[i * n + i];
      for (int64_t j = i + 1; j < n; ++j) w[j] -= e * u[i * n + j];
      r.codes[row * n + order[i]] = static_cast<int>(code), r.decoded[row * n + order[i]] = q;
    }
  }
  return r;
}

// tr((W − Ŵ) H (W − Ŵ)ᵀ): the squared error of the layer's output.
inline double output_error(const std::vector<float>& w, const std::vector<float>& coded, const std::vector<double>& h, int64_t m, int64_t n) {
  double sum = 0;
  for (int64_t r = 0; r < m; ++r)
    for (int64_t i = 0; i < n; ++i) {
      double dot = 0;
      for (int64_t j = 0; j < n; ++j) dot += h[i * n + j] * (double{w[r * n + j]} - coded[r * n + j]);
      sum += dot * (double{w[r * n + i]} - coded[r * n + i]);
    }
  return sum;
}

}  // namespace tenon::gptq::reference
