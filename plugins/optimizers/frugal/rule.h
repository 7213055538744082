// What FRUGAL does to one element: Adam inside the chosen part, a step without state outside.
#pragma once

#include "sdk/adam.h"

namespace tenon::sdk::frugal {

enum class Inactive { kNo, kSgd, kSignSgd };
enum class Split { kColumns, kRows, kRandK, kSvd, kRandom, kRandPerm, kBlock };

struct Settings {
  AdamSettings adam;
  Split split;
  bool left, reverse, fixed_side;  // proj_side: std, reverse_std, left or right
  double density, scale, inactive_scale;
  int64_t gap;
  bool reset;
  Inactive inactive;

  // The side of an m × n matrix on which the projections split it.
  bool is_left(int64_t m, int64_t n) const { return fixed_side ? left : (m < n) != reverse; }
  int64_t rank(int64_t m, int64_t n) const {
    return std::min<int64_t>(std::min(m, n), std::llrint(static_cast<double>(is_left(m, n) ? m : n) * density));
  }
  bool is_projected(int64_t m, int64_t n) const {
    return (split == Split::kSvd || split == Split::kRandom) && rank(m, n) > 0;
  }
};

// The numbers of one update. The decay belongs to neither part: both steps are taken from the same weight.
struct Numbers {
  AdamNumbers adam;
  Step outside;  // of the inactive rule's direction
  Inactive rule;

  // updates: since the states were last set to zero.
  Numbers(const Settings& s, const tn_item& item, int64_t updates)
      : adam(s.adam, item, updates), outside(adam), rule(s.inactive) {
    adam.step *= static_cast<float>(s.scale);
    outside.step = static_cast<float>(item.lr * s.scale * s.inactive_scale);
  }
  TN_FN float direction(float h) const {
    if (rule == Inactive::kNo) return 0;
    return rule == Inactive::kSgd ? h : static_cast<float>((h > 0) - (h < 0));
  }
};

}  // namespace tenon::sdk::frugal
