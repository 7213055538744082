// Random numbers of the host, keyed by value: the same after a restart and in any order.
#pragma once

#include <cstdint>

namespace tenon::trainer {

inline constexpr uint64_t kSplitMixStep = 0x9E3779B97F4A7C15u;

// SplitMix64's finalizer (Steele, Lea and Flood 2014): read at key + counter · kSplitMixStep.
constexpr uint64_t split_mix(uint64_t z) {
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

}  // namespace tenon::trainer
