// The instructions of sdk/gpu/instructions.h on the emulated GPU, written from the vendors' tables of which lane holds which element: with
// waves of 32 NVIDIA's, with waves of 64 AMD's.
#pragma once

#include <cmath>

#include "sdk/dtype.h"
#include "sdk/gpu/emulated_block.h"
#include "tenon/host.h"

namespace tenon::sdk::gpu {

inline bool has_matrix_units(const tn_exec*) { return true; }

inline void copy_async(void* to, const void* from, bool valid) { Threads::mine().copy(to, valid ? from : nullptr, 16); }
inline void end_copies() { Threads::mine().end_group(); }
template <int kPending>
void wait_copies() {
  Threads::mine().wait_groups(kPending);
}
inline float exp2(float x) { return std::exp2(x); }
inline int32_t dot4(int32_t a, int32_t b, int32_t sum) {
  for (int i = 0; i < 32; i += 8) sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return sum;
}

template <class T>
uint32_t pack(float low, float high) {
  return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}
// One of the two elements of a register.
template <class T>
float element(uint32_t pair, int half) {
  return to_float(T{static_cast<uint16_t>(pair >> 16 * half)});
}

// Adds a · b, exact products summed in f32.
template <int kRows, int kColumns, int kDepth>
void add_product(float (&d)[kRows][kColumns], const float (&a)[kRows][kDepth], const float (&b)[kDepth][kColumns]) {
  for (int i = 0; i < kRows; ++i)
    for (int k = 0; k < kDepth; ++k)
      for (int j = 0; j < kColumns; ++j) d[i][j] += a[i][k] * b[k][j];
}

#if TENON_EMULATED_WAVE == 32

using SharedAddress = uintptr_t;
inline SharedAddress shared_address(const void* p) { return reinterpret_cast<SharedAddress>(p); }

template <bool kTransposed>
void load_matrices(uint32_t (&r)[4], SharedAddress row) {
  struct Part {
    uint32_t* r;
    const uint16_t* row;
  } mine{r, reinterpret_cast<const uint16_t*>(row)};
  together(mine, [](Part* const* lane) {
    for (int l = 0; l < 32; ++l)
      for (int m = 0; m < 4; ++m) {
        uint32_t pair[2];
        for (int h = 0; h < 2; ++h) {
          const int line = kTransposed ? l % 4 * 2 + h : l / 4, column = kTransposed ? l / 4 : l % 4 * 2 + h;
          pair[h] = lane[8 * m + line]->row[column];
        }
        lane[l]->r[m] = pair[0] | pair[1] << 16;
      }
  });
}

template <class T>
void mma_16x8x16(float* d, const uint32_t (&a)[4], const uint32_t* b) {
  struct Part {
    float* d;
    const uint32_t *a, *b;
  } mine{d, a, b};
  together(mine, [](Part* const* lane) {
    float left[16][16], right[16][8], sum[16][8];
    for (int l = 0; l < 32; ++l) {
      const int group = l / 4, in_group = l % 4;
      for (int i = 0; i < 8; ++i)
        left[(i / 2) % 2 == 0 ? group : group + 8][in_group * 2 + (i & 1) + (i < 4 ? 0 : 8)] = element<T>(lane[l]->a[i / 2], i & 1);
      for (int i = 0; i < 4; ++i) right[in_group * 2 + (i & 1) + (i < 2 ? 0 : 8)][group] = element<T>(lane[l]->b[i / 2], i & 1);
      for (int i = 0; i < 4; ++i) sum[i < 2 ? group : group + 8][in_group * 2 + (i & 1)] = lane[l]->d[i];
    }
    add_product(sum, left, right);
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i) lane[l]->d[i] = sum[i < 2 ? l / 4 : l / 4 + 8][l % 4 * 2 + (i & 1)];
  });
}

#else

template <class T>
void mfma_16x16x16(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[2]) {
  struct Part {
    float* d;
    const uint32_t *a, *b;
  } mine{d, a, b};
  together(mine, [](Part* const* lane) {
    float left[16][16], right[16][16], sum[16][16];
    for (int l = 0; l < 64; ++l)
      for (int i = 0; i < 4; ++i) {
        const int along = 4 * (l / 16) + i;
        left[l % 16][along] = element<T>(lane[l]->a[i / 2], i % 2);
        right[along][l % 16] = element<T>(lane[l]->b[i / 2], i % 2);
        sum[along][l % 16] = lane[l]->d[i];
      }
    add_product(sum, left, right);
    for (int l = 0; l < 64; ++l)
      for (int i = 0; i < 4; ++i) lane[l]->d[i] = sum[4 * (l / 16) + i][l % 16];
  });
}

#endif

}  // namespace tenon::sdk::gpu
