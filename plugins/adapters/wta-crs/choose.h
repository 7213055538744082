// Which rows are kept, and with what weights (Liu et al. 2023): the c heaviest for certain, k − c draws with
// replacement from the rest.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "sdk/philox.h"

namespace tenon::wta_crs {

struct Choice {
  std::vector<int32_t> index;  // ascending
  std::vector<float> weight;
};

// How many rows are kept for certain: the c in [0, k) of the least (1 − P_c)/(k − c), P_c the sum of the c largest
// probabilities. p descending.
inline int64_t winners(const std::vector<double>& p, int64_t k) {
  int64_t best = 0;
  double sum = 0, least = 1.0 / static_cast<double>(k);
  for (int64_t c = 1; c < k; ++c) {
    sum += p[static_cast<size_t>(c - 1)];
    const double value = std::max(0.0, 1 - sum) / static_cast<double>(k - c);
    if (value < least) least = value, best = c;
  }
  return best;
}

// k of the rows whose norms these are. adaptive: c as above, else plain column-row sampling (c = 0).
inline Choice choose(const std::vector<float>& norms, int64_t k, bool adaptive, const tn_rng& rng) {
  constexpr double kEpsilon = 1e-8;
  const size_t rows = norms.size();
  std::vector<int32_t> order(rows);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return norms[a] > norms[b]; });
  double total = 0;
  for (const float x : norms) total += x + kEpsilon;
  std::vector<double> p(rows), above(rows + 1);
  for (size_t i = 0; i < rows; ++i) p[i] = (norms[order[i]] + kEpsilon) / total, above[i + 1] = above[i] + p[i];
  const int64_t c = adaptive ? winners(p, k) : 0, draws = k - c;
  const double before = above[static_cast<size_t>(c)], rest = above[rows] - before;
  std::vector<std::pair<int32_t, float>> kept;
  for (int64_t i = 0; i < c; ++i) kept.emplace_back(order[i], 1.0f);
  for (int64_t d = 0; d < draws; ++d) {
    const double at = before + rest * static_cast<double>(sdk::uniform(rng, static_cast<uint64_t>(d)));
    auto i = static_cast<size_t>(std::upper_bound(above.begin() + c + 1, above.end(), at) - above.begin() - 1);
    i = std::min(i, rows - 1);
    kept.emplace_back(order[i], static_cast<float>(rest / (static_cast<double>(draws) * p[i])));
  }
  std::stable_sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  Choice out;
  for (const auto& [row, weight] : kept) out.index.push_back(row), out.weight.push_back(weight);
  return out;
}

}  // namespace tenon::wta_crs
