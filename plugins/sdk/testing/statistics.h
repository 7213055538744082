// What tests of numerics compare with, and the noise they feed in.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "sdk/philox.h"

namespace tenon::sdk::testing {

// Standard normal numbers, the same on every machine.
inline std::vector<float> normals(size_t n, uint32_t stream, float scale = 1) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = scale * normal({99, 7, stream}, i);
  return out;
}

inline double norm(const std::vector<float>& x) {
  double s = 0;
  for (const float v : x) s += static_cast<double>(v) * v;
  return std::sqrt(s);
}

template <class A, class B>
double largest_difference(const A& a, const B& b) {
  double m = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(d <= m)) m = d;  // NaN is a difference
  }
  return m;
}

// |a − b| / |b|, in the 2-norm.
template <class A, class B>
double relative_distance(const A& a, const B& b) {
  double d = a.size() == b.size() ? 0 : INFINITY, s = 0;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    const double e = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    d += e * e, s += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return d == 0 ? 0 : std::sqrt(d / s);
}

}  // namespace tenon::sdk::testing
