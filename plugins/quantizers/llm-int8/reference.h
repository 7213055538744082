// The card in plain code and f64.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace tenon::llm_int8::reference {

// y [rows, m] = x [rows, n] W^T with the weight's codes and scales; threshold 0: no column is apart.
inline std::vector<double> product(const std::vector<float>& x, int64_t rows, const std::vector<int8_t>& codes, const std::vector<float>& scales, int64_t n,
                                   double threshold) {
  const int64_t m = static_cast<int64_t>(scales.size());
  std::vector<bool> apart(n);
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t j = 0; j < n; ++j)
      if (threshold > 0 && std::fabs(x[t * n + j]) >= threshold) apart[j] = true;
  std::vector<double> y(rows * m);
  for (int64_t t = 0; t < rows; ++t) {
    double most = 0;
    for (int64_t j = 0; j < n; ++j)
      if (!apart[j]) most = std::fmax(most, std::fabs(x[t * n + j]));
    for (int64_t i = 0; i < m; ++i) {
      int64_t sum = 0;
      double rest = 0;
      for (int64_t j = 0; j < n; ++j) {
        if (apart[j])
          rest += double{x[t * n + j]} * codes[i * n + j] * scales[i] / 127;
        else if (most > 0)
          sum += static_cast<int64_t>(std::nearbyintf(x[t * n + j] * (127.0f / static_cast<float>(most)))) * codes[i * n + j];
      }
      y[t * m + i] = static_cast<double>(sum) * most * scales[i] / (127.0 * 127.0) + rest;
    }
  }
  return y;
}

}  // namespace tenon::llm_int8::reference
