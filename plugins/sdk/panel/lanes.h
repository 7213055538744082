// How wide the vectors of this object are, and whole numbers of them. No vector types: every backend's compiler reads this.
#pragma once

#include <cstdint>

namespace tenon::sdk::panel {

#if defined(__AVX512F__)
inline constexpr int64_t kLanes = 16, kPanelVectors = 4;  // 32 registers: 6 × 4 sums, 4 of B, 1 of A
#elif defined(__AVX2__)
inline constexpr int64_t kLanes = 8, kPanelVectors = 2;  // 16 registers: 6 × 2 sums, 2 of B, 1 of A
#else
inline constexpr int64_t kLanes = 4, kPanelVectors = 2;
#endif
inline constexpr int64_t kPanel = kLanes * kPanelVectors;  // columns of B that one micro-kernel covers
inline constexpr int64_t kRows = 6;                        // rows of A that one micro-kernel covers
inline constexpr int64_t kMaxWidth = 512;                   // of a head

// Rounds towards minus infinity.
constexpr int64_t floor_div(int64_t n, int64_t by) {
  return n >= 0 ? n / by : -((by - 1 - n) / by);
}
constexpr int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

}  // namespace tenon::sdk::panel
