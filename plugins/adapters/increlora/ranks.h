// Who gets the next ranks: importances smoothed over steps, and the budget.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "sdk/base.h"

namespace tenon::increlora {

struct Ranks {
  std::vector<int64_t> active;            // by site, in the order taken
  std::vector<double> mean, uncertainty;  // EMA of the scores, and of their distance from it
  int64_t budget = 0;                     // of all sites together

  int64_t total() const { return std::accumulate(active.begin(), active.end(), int64_t{0}); }
  bool complete() const { return total() >= budget; }

  // Ī ← β Ī + (1 − β) S, Ū ← β Ū + (1 − β) |S − Ī|.
  void observe(const std::vector<double>& scores, double beta) {
    for (size_t i = 0; i < active.size(); ++i) {
      mean[i] = beta * mean[i] + (1 - beta) * scores[i];
      uncertainty[i] = beta * uncertainty[i] + (1 - beta) * std::fabs(scores[i] - mean[i]);
    }
  }

  // The `top` sites of the largest Ī · Ū, with how many ranks each gets: `increment`, or what the budget has left,
  // which it meets exactly.
  std::vector<std::pair<size_t, int64_t>> give(int64_t top, int64_t increment) {
    std::vector<size_t> order(active.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return mean[a] * uncertainty[a] > mean[b] * uncertainty[b]; });
    std::vector<std::pair<size_t, int64_t>> given;
    int64_t left = budget - total();
    for (size_t k = 0; k < order.size() && static_cast<int64_t>(k) < top && left > 0; ++k) {
      const int64_t n = std::min(increment, left);
      active[order[k]] += n, left -= n;
      given.emplace_back(order[k], n);
    }
    return given;
  }

  std::vector<uint8_t> bytes() const {
    std::vector<uint8_t> out(active.size() * 24);
    for (size_t i = 0; i < active.size(); ++i) {
      std::memcpy(out.data() + i * 24, &active[i], 8);
      std::memcpy(out.data() + i * 24 + 8, &mean[i], 8), std::memcpy(out.data() + i * 24 + 16, &uncertainty[i], 8);
    }
    return out;
  }
  void load(const void* from, uint64_t n) {
    if (n != active.size() * 24) sdk::fail(TN_E_FORMAT, "increlora: the saved ranks are of another number of modules");
    const auto* bytes = static_cast<const uint8_t*>(from);
    for (size_t i = 0; i < active.size(); ++i) {
      int64_t rank = 0;
      std::memcpy(&rank, bytes + i * 24, 8);
      if (rank < active[i] || rank > budget)
        sdk::fail(TN_E_FORMAT,
                  "increlora: a saved rank is " + std::to_string(rank) + ", which this run cannot have come to");
      active[i] = rank;
      std::memcpy(&mean[i], bytes + i * 24 + 8, 8), std::memcpy(&uncertainty[i], bytes + i * 24 + 16, 8);
    }
  }
};

}  // namespace tenon::increlora
