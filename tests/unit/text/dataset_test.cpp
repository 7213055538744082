// Windows, targets, packing, the held-out split and the order of batches.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "core/error.h"
#include "hosts/trainer/text/data/batch_order.h"
#include "hosts/trainer/text/data/dataset.h"

namespace tenon::trainer {
namespace {

using Ids = std::vector<int32_t>;

// Documents of the given sizes; token i is i.
Documents documents(const std::vector<size_t>& sizes) {
  Documents d;
  d.source = "data";
  for (const size_t n : sizes) {
    d.starts.push_back(d.tokens.size());
    for (size_t i = 0; i < n; ++i) d.tokens.push_back(int32_t(d.tokens.size()));
  }
  return d;
}

WindowOptions of_length(int64_t length) {
  WindowOptions o;
  o.length = length;
  return o;
}

TEST(Dataset, TrainingDropsTheShortWindowAndEvaluationKeepsIt) {
  EXPECT_EQ(Dataset(documents({11}), of_length(4)).size(), 2u);
  WindowOptions o = of_length(4);
  o.keep_short = true;
  const Dataset d(documents({11}), o);
  ASSERT_EQ(d.size(), 3u);
  const Batch b = d.batch({0, 1, 2});
  EXPECT_EQ(b.predicted, 3 + 3 + 2);
  EXPECT_EQ(b.tokens, (Ids{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0}));
  EXPECT_EQ(b.targets, (Ids{1, 2, 3, kIgnored, 5, 6, 7, kIgnored, 9, 10, kIgnored, kIgnored}));
  EXPECT_EQ(b.lengths, (Ids{4, 4, 3}));
  EXPECT_EQ(Dataset(documents({9}), o).size(), 2u) << "one token predicts nothing";
  EXPECT_EQ(d.batch({2}).length, 3);
}

TEST(Dataset, PackedWindowsKnowWhereDocumentsStart) {
  WindowOptions o = of_length(6);
  const Dataset open(documents({2, 3, 7}), o);
  ASSERT_EQ(open.size(), 2u);
  EXPECT_EQ(open.batch({0}).segment_starts[0], (Ids{0, 2, 5}));
  EXPECT_EQ(open.batch({1}).segment_starts[0], (Ids{0}));
  EXPECT_EQ(open.batch({0}).targets, (Ids{1, 2, 3, 4, 5, kIgnored}));
  o.isolate_documents = true;
  const Batch apart = Dataset(documents({2, 3, 7}), o).batch({0});
  EXPECT_EQ(apart.targets, (Ids{1, kIgnored, 3, 4, kIgnored, kIgnored}));
  EXPECT_EQ(apart.predicted, 3);
}

TEST(Dataset, UncountedTokensAreNoTargets) {
  Documents d = documents({4});
  d.counts = {0, 0, 1, 1};
  const Batch b = Dataset(std::move(d), of_length(4)).batch({0});
  EXPECT_EQ(b.targets, (Ids{kIgnored, 2, 3, kIgnored}));
  EXPECT_EQ(b.predicted, 2);
}

TEST(Dataset, UnpackedDocumentsArePaddedSplitOrTruncated) {
  WindowOptions o = of_length(4);
  o.pack = false;
  o.pad_id = 99;
  const Dataset split(documents({3, 6, 1}), o);
  ASSERT_EQ(split.size(), 3u);
  EXPECT_EQ(split.batch({0, 1, 2}).tokens, (Ids{0, 1, 2, 99, 3, 4, 5, 6, 7, 8, 99, 99}));
  o.long_documents = LongDocuments::kTruncate;
  EXPECT_EQ(Dataset(documents({3, 6, 1}), o).size(), 2u);
}

template <class F>
std::string refusal(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

TEST(Dataset, RefusalsNameTheLimit) {
  EXPECT_NE(refusal([] { Dataset(documents({3}), of_length(4)); }).find("3 tokens"), std::string::npos);
  EXPECT_NE(refusal([] { Dataset(documents({3}), of_length(1)); }).find("--seq-len"), std::string::npos);
  EXPECT_NE(refusal([] { Dataset(documents({3}), of_length(1000000000000)); }).find("--seq-len"), std::string::npos);
  EXPECT_NE(refusal([] { BatchOrder(3, 4, 1, Order::kSequential, 0, "data"); }).find("--batch-size"),
            std::string::npos);
  EXPECT_NE(refusal([] { BatchOrder(3, 0, 1, Order::kSequential, 0, "data"); }).find("--batch-size"),
            std::string::npos);
  EXPECT_NE(refusal([] { BatchOrder(3, 1, 0, Order::kSequential, 0, "data"); }).find("--accumulate"),
            std::string::npos);
  EXPECT_NE(refusal([] { Dataset::split(documents({4}), of_length(4), 0.5, 1); }).find("held out"), std::string::npos);
  EXPECT_NE(refusal([] { Dataset::split(documents({40}), of_length(4), 1.0, 1); }).find("fraction"), std::string::npos);
}

TEST(Dataset, TheHeldOutShareIsDeterministicAndApart) {
  const auto all_tokens = [](const Dataset& d) {
    std::multiset<int32_t> all;
    for (uint64_t i = 0; i < d.size(); ++i) {
      const Batch b = d.batch({i});
      all.insert(b.tokens.begin(), b.tokens.begin() + b.lengths[0]);
    }
    return all;
  };
  for (const auto& sizes : {std::vector<size_t>{40}, std::vector<size_t>(10, 4)}) {
    const auto [rest, held] = Dataset::split(documents(sizes), of_length(4), 0.2, 5);
    EXPECT_EQ(rest.size(), 8u);
    EXPECT_EQ(held.size(), 2u);
    std::multiset<int32_t> both = all_tokens(rest);
    both.merge(all_tokens(held));
    EXPECT_EQ(both.size(), 40u);
    EXPECT_EQ(std::set<int32_t>(both.begin(), both.end()).size(), 40u);
    const auto again = Dataset::split(documents(sizes), of_length(4), 0.2, 5);
    EXPECT_EQ(all_tokens(again.second), all_tokens(held));
  }
}

TEST(BatchOrder, SequentialStartsOverAndDropsTheIncompleteBatch) {
  BatchOrder order(7, 2, 1, Order::kSequential, 0, "data");
  EXPECT_EQ(order.batches_per_epoch(), 3);
  EXPECT_EQ(order.windows_of(2, 0), (std::vector<uint64_t>{4, 5}));
  EXPECT_EQ(order.windows_of(3, 0), (std::vector<uint64_t>{0, 1}));
  BatchOrder micro(7, 2, 2, Order::kSequential, 0, "data");
  EXPECT_EQ(micro.windows_of(0, 1), (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(micro.windows_of(1, 0), (std::vector<uint64_t>{4, 5}));
  EXPECT_EQ(micro.windows_of(1, 1), (std::vector<uint64_t>{0, 1}));
  EXPECT_EQ(micro.epoch_of(2), 1);
}

TEST(BatchOrder, AnyStepAnswersTheSameAfterARestart) {
  BatchOrder forward(23, 3, 2, Order::kShuffled, 42, "data");
  std::vector<std::vector<uint64_t>> seen;
  for (int64_t s = 0; s < 12; ++s)
    for (int64_t k = 0; k < 2; ++k) seen.push_back(forward.windows_of(s, k));
  for (int64_t s = 11; s >= 0; --s) {
    BatchOrder fresh(23, 3, 2, Order::kShuffled, 42, "data");
    EXPECT_EQ(fresh.windows_of(s, 1), seen[size_t(s * 2 + 1)]);
  }
  std::set<uint64_t> epoch;
  for (size_t b = 0; b < 7; ++b) epoch.insert(seen[b].begin(), seen[b].end());
  EXPECT_EQ(epoch.size(), 21u);
}

// The order of a run is part of its result: it must not change between versions or machines.
TEST(BatchOrder, PermutationsAreFixed) {
  EXPECT_EQ(permutation(8, 1, 0), (std::vector<uint64_t>{3, 4, 1, 7, 5, 0, 6, 2}));
  EXPECT_EQ(permutation(8, 1, 1), (std::vector<uint64_t>{2, 7, 3, 1, 5, 0, 6, 4}));
  EXPECT_TRUE(permutation(0, 1, 0).empty());
}

TEST(BatchOrder, PermutationsAreUniform) {
  std::vector<std::vector<int>> counts(5, std::vector<int>(5));
  for (uint64_t stream = 0; stream < 20000; ++stream) {
    const auto p = permutation(5, 9, stream);
    for (size_t i = 0; i < 5; ++i) ++counts[i][p[i]];
  }
  for (const auto& row : counts)
    for (const int c : row) EXPECT_NEAR(c, 4000, 300);  // more than five standard deviations
}

}  // namespace
}  // namespace tenon::trainer
