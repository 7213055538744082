// Random numbers of the host, keyed by value: the same after a restart and in any order.
#pragma once

#include <cstdint>

#include "tenon/tensor.h"

namespace tenon::trainer {

inline constexpr uint64_t kSplitMixStep = 0x9E3779B97F4A7C15u;

// SplitMix64's finalizer (Steele, Lea and Flood 2014): read at key + counter · kSplitMixStep.
constexpr uint64_t split_mix(uint64_t z) {
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

// The key of what plugins draw in one micro-batch of one step. Its stream holds both where the step is below 2^20 and the micro-batch below
// 4096; what lies above goes into the upper half of the seed, so that no two turns of a run (up to 2^44 steps of 2^20 micro-batches) share a key.
constexpr tn_rng turn_key(uint64_t seed, uint32_t uid, uint32_t stream, int64_t step, int64_t micro_batch) {
  const uint64_t s = static_cast<uint64_t>(step), m = static_cast<uint64_t>(micro_batch);
  return {seed ^ (s >> 20 << 8 | m >> 12) << 32, uid, stream ^ static_cast<uint32_t>(s << 12 | (m & 4095))};
}

}  // namespace tenon::trainer
