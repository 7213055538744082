// The best approximation of a matrix of given rank, as two factors. Runs on the host, in f64.
#pragma once

#include <cstdint>
#include <vector>

namespace tenon::mla {

struct Factors {
  std::vector<double> up, down;  // [m, r] with orthonormal columns, [r, n] = Σ Vᵀ: the matrix is about up · down
};

// Of a[m, n], r <= min(m, n). Empty where a has NaN.
Factors best_of_rank(const std::vector<double>& a, int64_t m, int64_t n, int64_t r);

}  // namespace tenon::mla
