// Normal numbers in pairs, without branches or tables: loops over them vectorize and every backend gives equal bits.
#pragma once

#include "sdk/philox.h"
#include "sdk/vector_trig.h"

namespace tenon::sdk {

struct NormalPair {
  float first, second;
};

// Elements 2 · pair and 2 · pair + 1 of the key's standard normal numbers, by Box and Muller.
TN_FN NormalPair normal_pair(const tn_rng& key, uint64_t pair) {
  const Words r = philox(key, pair);
  const float u = (static_cast<float>(r.w[0] >> 8) + 1.0f) * 0x1p-24f, radius = std::sqrt(-2.0f * vlog(u));
  const SinCos at = vsin_cos(6.28318530717958647692f * (static_cast<float>(r.w[1] >> 8) * 0x1p-24f));
  return {radius * at.cos, radius * at.sin};
}

}  // namespace tenon::sdk
