// Products of 8-bit integers where no library of the vendor takes them: one tile of C a block of threads, four values of k an instruction.
#pragma once

#include "sdk/gpu/for_each.h"
#include "sdk/gpu/instructions.h"

namespace tenon::gpu {

// C[m, n] = A[m, k] · B[n, k]ᵀ; row strides in elements. 256 threads hold 4 × 4 of the 64 × 64 sums each, sixteen rows and columns apart, so
// that neighbours read different banks and write neighbouring elements.
struct TiledIntegers {
  static constexpr int kTile = 64, kWords = 16, kEach = 4, kApart = kTile / kEach, kThreads = kApart * kApart, kPitch = kWords + 1;
  static constexpr int64_t kShared = int64_t{2} * kTile * kPitch * static_cast<int64_t>(sizeof(int32_t));
  int64_t m, n, k;
  const int8_t *a, *b;
  int64_t a_row, b_row;
  int32_t* c;
  int64_t c_row;

  int64_t tiles() const { return ((m + kTile - 1) / kTile) * ((n + kTile - 1) / kTile); }
  // Rows of A and of B begin at multiples of four bytes.
  bool in_words() const { return (reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | static_cast<uintptr_t>(a_row) | static_cast<uintptr_t>(b_row)) % 4 == 0; }

  // Four values of a row from `at` on; zeros behind its end.
  template <bool kInWords>
  TN_FN int32_t four(const int8_t* row, int64_t at) const {
    if (kInWords && at + 4 <= k) return *reinterpret_cast<const int32_t*>(row + at);
    uint32_t word = 0;
    for (int i = 0; i < 4 && at + i < k; ++i) word |= static_cast<uint32_t>(static_cast<uint8_t>(row[at + i])) << 8 * i;
    return static_cast<int32_t>(word);
  }
  template <bool kInWords>
  TN_FN void multiply(const sdk::Block& block) const {
    const int64_t across = (n + kTile - 1) / kTile, i0 = block.index / across * kTile, j0 = block.index % across * kTile;
    int32_t* const left = block.shared<int32_t>();
    int32_t* const right = left + kTile * kPitch;
    const int t = sdk::gpu::thread(), row = t / kApart, column = t % kApart;
    int32_t sum[kEach][kEach] = {};
    for (int64_t k0 = 0; k0 < k; k0 += 4 * kWords) {
      for (int x = t; x < kTile * kWords; x += kThreads) {
        const int i = x / kWords, d = x % kWords;
        const int64_t at = k0 + 4 * d;
        left[i * kPitch + d] = i0 + i < m ? four<kInWords>(a + (i0 + i) * a_row, at) : 0;
        right[i * kPitch + d] = j0 + i < n ? four<kInWords>(b + (j0 + i) * b_row, at) : 0;
      }
      sdk::gpu::barrier();
      for (int d = 0; d < kWords; ++d) {
        int32_t l[kEach], r[kEach];
        for (int i = 0; i < kEach; ++i) l[i] = left[(row + kApart * i) * kPitch + d], r[i] = right[(column + kApart * i) * kPitch + d];
        for (int i = 0; i < kEach; ++i)
          for (int j = 0; j < kEach; ++j) sum[i][j] = sdk::gpu::dot4(l[i], r[j], sum[i][j]);
      }
      sdk::gpu::barrier();
    }
    for (int i = 0; i < kEach; ++i)
      for (int j = 0; j < kEach; ++j) {
        const int64_t y = i0 + row + kApart * i, x = j0 + column + kApart * j;
        if (y < m && x < n) c[y * c_row + x] = sum[i][j];
      }
  }
};
template <bool kInWords>
struct TiledIntegersBy : TiledIntegers {
  TN_FN void operator()(const sdk::Block& block) const { this->template multiply<kInWords>(block); }
};

inline void multiply(const tn_exec& exec, const TiledIntegers& p) {
  if (p.m <= 0 || p.n <= 0) return;
  constexpr int64_t kShared = sdk::gpu::kReduceBytes + TiledIntegers::kShared;
  if (p.in_words())
    sdk::gpu::launch_blocks(&exec, p.tiles(), TiledIntegers::kThreads, kShared, TiledIntegersBy<true>{p});
  else
    sdk::gpu::launch_blocks(&exec, p.tiles(), TiledIntegers::kThreads, kShared, TiledIntegersBy<false>{p});
}

}  // namespace tenon::gpu
