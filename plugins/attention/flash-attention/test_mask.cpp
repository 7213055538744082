// The shared mask arithmetic against one question per pair, and the merge.
#include <random>

#include <gtest/gtest.h>

#include "sdk/attention/mask.h"
#include "sdk/attention/merge.h"

namespace tenon::sdk {
namespace {

TEST(AttentionMask, RunsAndTilesAgreeWithEveryPair) {
  std::mt19937 random(3);
  const auto draw = [&](int64_t lo, int64_t hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(random); };
  int full = 0, empty = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    Mask m;
    m.causal = draw(0, 1), m.left = draw(-1, 12), m.right = draw(-1, 12);
    if (m.left >= 0 || m.right >= 0) m.sink = draw(0, 1) * draw(0, 20);
    const int64_t k_pos = draw(-10, 10), k_len = draw(0, 40), first = draw(-15, 45), last = first + draw(0, 9);
    const auto sees = [&](int64_t i, int64_t j) { return visible(m, i, k_pos + j); };
    for (int64_t i = first; i <= last; ++i) {
      const VisibleKeys v = visible_keys(m, i, k_pos, k_len);
      EXPECT_LE(v.sink.end, v.window.begin);
      for (int64_t j = 0; j < k_len; ++j) {
        const bool inside = (j >= v.sink.begin && j < v.sink.end) || (j >= v.window.begin && j < v.window.end);
        ASSERT_EQ(inside, sees(i, j)) << "query " << i << " key " << j;
      }
    }
    const int64_t begin = draw(0, k_len), end = draw(begin, k_len);
    if (begin == end) continue;
    bool all = true, any = false;
    for (int64_t i = first; i <= last; ++i)
      for (int64_t j = begin; j < end; ++j) sees(i, j) ? any = true : all = false;
    const Cover cover = classify(m, first, last, k_pos, k_len, {begin, end});
    if (cover == Cover::kFull) {
      ASSERT_TRUE(all);
      ++full;
    }
    if (cover == Cover::kEmpty) {
      ASSERT_FALSE(any);
      ++empty;
    }
  }
  EXPECT_GT(full, 100);
  EXPECT_GT(empty, 100);
}

TEST(AttentionMerge, WeighsByMassAndKeepsNothingAsNothing) {
  float o[2] = {1, 2}, lse = std::log(3.0f);
  const float other[2] = {5, -2};
  merge_row(o, lse, other, std::log(1.0f), 2);
  EXPECT_FLOAT_EQ(o[0], 2);
  EXPECT_FLOAT_EQ(o[1], 1);
  EXPECT_FLOAT_EQ(lse, std::log(4.0f));
  merge_row(o, lse, other, -INFINITY, 2);
  EXPECT_FLOAT_EQ(o[0], 2);
  EXPECT_FLOAT_EQ(lse, std::log(4.0f));
  float nothing[2] = {0, 0}, none = -INFINITY;
  merge_row(nothing, none, nothing, -INFINITY, 2);
  EXPECT_EQ(nothing[0], 0.0f);
  EXPECT_EQ(none, -INFINITY);
}

}  // namespace
}  // namespace tenon::sdk
