// The card in plain code and f64: what the fast path is tested against.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace tenon::coat::reference {

// The nearest number of E4M3, ties to even codes, saturating at 448.
inline double e4m3(double x) {
  const double a = std::fabs(x);
  if (a >= 448) return std::copysign(448.0, x);
  const double unit = a < 0x1p-6 ? 0x1p-9 : std::ldexp(1.0, std::ilogb(a) - 3);
  return std::copysign(std::nearbyint(a / unit) * unit, x);
}

struct Group {
  double k = 1, scale = 0, middle = 0;
};

inline Group group_of(const float* x, size_t n, bool expand) {
  double most = 0, least = INFINITY;
  for (size_t i = 0; i < n; ++i) {
    const double a = std::fabs(x[i]);
    most = std::max(most, a);
    if (a > 0) least = std::min(least, a);
  }
  if (most == 0) return {};
  most += 1e-30, least += 1e-30;
  Group g;
  const double ratio = std::log2(most / least);
  if (expand) g.k = std::clamp(ratio > 0 ? std::floor(16 * std::log2(448.0 * 448 / 2) / ratio) / 16 : 64.0, 1.0 / 16, 64.0);
  g.middle = std::sqrt(most) * std::sqrt(least);
  g.scale = std::pow(most / g.middle, g.k) / 448;
  return g;
}

// Encode and decode of a tensor in groups of 128.
inline std::vector<double> round_trip(const std::vector<float>& x, bool expand) {
  std::vector<double> out(x.size());
  for (size_t begin = 0; begin < x.size(); begin += 128) {
    const size_t n = std::min<size_t>(128, x.size() - begin);
    const Group g = group_of(&x[begin], n, expand);
    for (size_t i = begin; i < begin + n; ++i) {
      if (x[i] == 0 || g.scale == 0) continue;
      const double q = e4m3(std::pow(std::fabs(x[i]) / g.middle, g.k) / g.scale);
      out[i] = std::copysign(std::pow(q * g.scale, 1 / g.k) * g.middle, x[i]);
    }
  }
  return out;
}

}  // namespace tenon::coat::reference
