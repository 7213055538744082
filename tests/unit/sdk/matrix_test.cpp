// The emulated matrix instructions hold elements where the vendors' manuals put them, and the tiles of sdk/gpu/matrix.h multiply.
#include "sdk/gpu/matrix.h"

#include <gtest/gtest.h>

#include <random>

namespace tenon::sdk::gpu {
namespace {

constexpr uint16_t kOne = 0x3f80;  // in bf16

// Runs body(lane) for a wave.
template <class Body>
void in_a_wave(int64_t shared, Body body) {
  emulate(nullptr, 1, kWave, shared, [=](int64_t, void* memory) { body(thread(), memory); });
}

struct Place {
  int lane, reg, half;
};

#if TENON_EMULATED_WAVE == 32

// PTX ISA, matrix fragments for mma.m16n8k16: the figures' elements, by hand.
struct Known {
  Place a, b;
  int d_lane, d;
};
constexpr Known kKnown[] = {
    {{0, 0, 0}, {0, 0, 0}, 0, 0},      // A(0, 0) · B(0, 0) = D(0, 0)
    {{5, 2, 1}, {13, 1, 1}, 5, 1},     // A(1, 11) · B(11, 3) = D(1, 3)
    {{31, 1, 0}, {31, 0, 0}, 31, 3},   // A(15, 6) · B(6, 7) = D(15, 7)
    {{18, 3, 1}, {6, 1, 1}, 16, 3},    // A(12, 13) · B(13, 1) = D(12, 1)
    {{18, 3, 1}, {6, 1, 0}, -1, 0},    // A(12, 13) · B(12, 1): another row of B, no product
};
TEST(MatrixInstruction, ElementsLieWhereTheManualSays) {
  for (const Known& k : kKnown) {
    float d[32][4];
    auto* const out = &d;
    in_a_wave(0, [=](int lane, void*) {
      uint32_t a[4] = {}, b[2] = {};
      float sum[4] = {};
      if (lane == k.a.lane) a[k.a.reg] = uint32_t{kOne} << 16 * k.a.half;
      if (lane == k.b.lane) b[k.b.reg] = uint32_t{kOne} << 16 * k.b.half;
      mma_16x8x16<bf16>(sum, a, b);
      for (int i = 0; i < 4; ++i) (*out)[lane][i] = sum[i];
    });
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i) EXPECT_EQ(d[l][i], l == k.d_lane && i == k.d ? 1.0f : 0.0f) << "lane " << l << " element " << i;
  }
}

// ldmatrix: lane l names row l % 8 of matrix l / 8; thread l receives row l / 4, elements 2 (l % 4) and the next, or of the transpose.
TEST(MatrixInstruction, MatricesAreLoadedAsTheManualSays) {
  uint32_t plain[32][4], across[32][4];
  auto *const out = &plain, *const out_across = &across;
  in_a_wave(4 * 8 * 16, [=](int lane, void* memory) {
    uint16_t* const m = static_cast<uint16_t*>(memory);
    for (int c = 0; c < 8; ++c) m[lane * 8 + c] = static_cast<uint16_t>(lane * 8 + c);
    barrier();
    load_matrices<false>((*out)[lane], shared_address(m + lane * 8));
    load_matrices<true>((*out_across)[lane], shared_address(m + lane * 8));
  });
  const auto pair = [](int low, int high) { return static_cast<uint32_t>(low | high << 16); };
  EXPECT_EQ(plain[0][0], pair(0, 1));
  EXPECT_EQ(plain[6][0], pair(12, 13));     // row 1, elements 4 and 5
  EXPECT_EQ(plain[31][3], pair(254, 255));  // the last row of the last matrix
  EXPECT_EQ(across[0][0], pair(0, 8));
  EXPECT_EQ(across[6][0], pair(33, 41));     // column 1 of rows 4 and 5
  EXPECT_EQ(across[31][3], pair(247, 255));  // the last column, rows 6 and 7
}

#else

// AMD CDNA ISA, V_MFMA_F32_16X16X16: A and B four elements a lane along k, D four rows a lane.
struct Known {
  Place a, b;
  int d_lane, d;
};
constexpr Known kKnown[] = {
    {{0, 0, 0}, {0, 0, 0}, 0, 0},       // A(0, 0) · B(0, 0) = D(0, 0)
    {{37, 1, 1}, {41, 1, 1}, 25, 1},    // A(5, 11) · B(11, 9) = D(5, 9)
    {{63, 0, 1}, {48, 0, 1}, 48, 3},    // A(15, 13) · B(13, 0) = D(15, 0)
    {{37, 1, 1}, {41, 1, 0}, -1, 0},    // A(5, 11) · B(10, 9): another row of B, no product
};
TEST(MatrixInstruction, ElementsLieWhereTheManualSays) {
  for (const Known& k : kKnown) {
    float d[64][4];
    auto* const out = &d;
    in_a_wave(0, [=](int lane, void*) {
      uint32_t a[2] = {}, b[2] = {};
      float sum[4] = {};
      if (lane == k.a.lane) a[k.a.reg] = uint32_t{kOne} << 16 * k.a.half;
      if (lane == k.b.lane) b[k.b.reg] = uint32_t{kOne} << 16 * k.b.half;
      mfma_16x16x16<bf16>(sum, a, b);
      for (int i = 0; i < 4; ++i) (*out)[lane][i] = sum[i];
    });
    for (int l = 0; l < 64; ++l)
      for (int i = 0; i < 4; ++i) EXPECT_EQ(d[l][i], l == k.d_lane && i == k.d ? 1.0f : 0.0f) << "lane " << l << " element " << i;
  }
}

#endif

// Small integers: every product and sum is exact.
template <class T, int kColumns>
void expect_tiles_multiply() {
  using Tile = SharedTile<T, kColumns>;
  constexpr int kRows = 32, kFeatures = 64;
  std::mt19937 random(5);
  const auto draw = [&](int n) {
    std::vector<float> x(static_cast<size_t>(n));
    for (float& v : x) v = static_cast<float>(std::uniform_int_distribution<int>(-3, 3)(random));
    return x;
  };
  const std::vector<float> a = draw(kRows * kColumns), b = draw(kRows * kColumns), c = draw(kRows * kFeatures);
  std::vector<float> got(16 * kRows), weighed(16 * kFeatures), sums(16), tops(16);
  in_a_wave(Tile::bytes(2 * kRows) + SharedTile<T, kFeatures>::bytes(kRows), [&](int lane, void* memory) {
    const Tile left{static_cast<T*>(memory)}, right{left.data + kRows * kColumns};
    const SharedTile<T, kFeatures> across{right.data + kRows * kColumns};
    for (int i = lane; i < kRows * kColumns; i += kWave) {
      *left.at(i / kColumns, i % kColumns) = from_float<T>(a[i]), *right.at(i / kColumns, i % kColumns) = from_float<T>(b[i]);
      if (i < kRows * kFeatures) *across.at(i / kFeatures, i % kFeatures) = from_float<T>(c[i]);
    }
    barrier();
    Sum s[1][kRows / 16] = {}, w[1][kFeatures / 16] = {};
    multiply_rows(s, left, 16, right);  // rows 16 … 31 of the left
    float sum[Sum::kSlots] = {}, top[Sum::kSlots];
    for (int slot = 0; slot < Sum::kSlots; ++slot) {
      top[slot] = -1e9f;
      for (int n = 0; n < kRows / 16; ++n)
        for (int x = 0; x < Sum::kPerSlot; ++x) {
          float& v = s[0][n].at(slot, x);
          got[Sum::row(slot) * kRows + 16 * n + Sum::column(x)] = v;
          sum[slot] += v, top[slot] = v > top[slot] ? v : top[slot];
          v = v > 0 ? 1.0f : -2.0f;  // weights that 16 bits hold
        }
      sum[slot] = row_sum(sum[slot]), top[slot] = row_max(top[slot]);
      if (Sum::first_of_row()) sums[Sum::row(slot)] = sum[slot], tops[Sum::row(slot)] = top[slot];
    }
    weigh_rows(w, s, across);
    for (int slot = 0; slot < Sum::kSlots; ++slot)
      for (int f = 0; f < kFeatures / 16; ++f)
        for (int x = 0; x < Sum::kPerSlot; ++x) weighed[Sum::row(slot) * kFeatures + 16 * f + Sum::column(x)] = w[0][f].at(slot, x);
  });
  for (int i = 0; i < 16; ++i) {
    float sum = 0, top = -1e9f;
    std::vector<float> row(kFeatures);
    for (int j = 0; j < kRows; ++j) {
      float dot = 0;
      for (int k = 0; k < kColumns; ++k) dot += a[(16 + i) * kColumns + k] * b[j * kColumns + k];
      ASSERT_EQ(got[i * kRows + j], dot) << i << ", " << j;
      sum += dot, top = std::max(top, dot);
      for (int f = 0; f < kFeatures; ++f) row[f] += (dot > 0 ? 1.0f : -2.0f) * c[j * kFeatures + f];
    }
    EXPECT_EQ(sums[i], sum);
    EXPECT_EQ(tops[i], top);
    for (int f = 0; f < kFeatures; ++f) ASSERT_EQ(weighed[i * kFeatures + f], row[f]) << i << ", " << f;
  }
}
TEST(Matrix, TilesMultiply) {
  expect_tiles_multiply<bf16, 64>();
  expect_tiles_multiply<bf16, 128>();
  expect_tiles_multiply<f16, 64>();
}

// A copy that nobody waited for has not landed, or has: both happen, and waiting settles it. Rows that are not there become zeros.
TEST(Matrix, CopiesLandWhenTheyAreWaitedFor) {
  uint32_t source[4] = {1, 2, 3, 4};
  int early = 0, late = 0;
  for (int time = 0; time < 2; ++time)
    in_a_wave(64, [&](int lane, void* memory) {
      uint32_t* const to = static_cast<uint32_t*>(memory);
      if (lane == 0) {
        copy_async(to, source, true), copy_async(to + 4, source, false);
        end_copies();
        copy_async(to + 8, source, true);
        end_copies();
        (to[0] == 1 ? early : late)++;
        wait_copies<1>();
        EXPECT_EQ(to[3], 4u);
        EXPECT_EQ(to[7], 0u);
        wait_copies<0>();
        EXPECT_EQ(to[8], 1u);
      }
    });
  EXPECT_EQ(early, 1);
  EXPECT_EQ(late, 1);
}

}  // namespace
}  // namespace tenon::sdk::gpu
