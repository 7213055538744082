#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "sdk/draw.h"
#include "sdk/testing/optimizer.h"
#include "sdk/testing/statistics.h"

namespace tenon::sdk::testing {
namespace {

using Hypers = std::map<std::string, std::string>;

class Lisa : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Lisa, ::testing::ValuesIn(plugin_objects()), [](const auto& p) { return object_label(p.param); });

constexpr size_t kBlocks = 5, kTable = 2 * kBlocks, kNorm = kTable + 1, kHead = kTable + 2;  // two matrices a block, then what lies outside

std::vector<Parameter> model(tn_dtype dtype = kF32, bool master = false) {
  std::vector<Parameter> all;
  for (size_t b = 0; b < kBlocks; ++b)
    for (const uint32_t role : {TN_ROLE_Q, TN_ROLE_DOWN})
      all.push_back({{12, 8}, normals(96, static_cast<uint32_t>(all.size())), role, dtype, master, 0, 0, static_cast<int32_t>(b)});
  all.push_back({{20, 8}, normals(160, 90), TN_ROLE_EMBEDDING, dtype, master});
  all.push_back({{8}, normals(8, 91), TN_ROLE_NORM, kF32, false});
  all.push_back({{20, 8}, normals(160, 92), TN_ROLE_HEAD, dtype, master});
  return all;
}

// One optimizer step of the whole model.
void step(OptimizerRun& run, int64_t s) {
  run.plan(s);
  for (size_t i = 0; i <= kHead; ++i)
    if (!run.frozen(i)) {
      ASSERT_EQ(run.step(i, normals(run.weights(i).size(), static_cast<uint32_t>(100 * s + i))), TN_OK) << run.host.error;
    }
}

std::set<size_t> active(const OptimizerRun& run) {
  std::set<size_t> out;
  for (size_t b = 0; b < kBlocks; ++b)
    if (!run.frozen(2 * b)) out.insert(b);
  return out;
}

TEST_P(Lisa, TrainsExactlyWhatWasDrawn) {
  OptimizerRun run(GetParam(), {{"interval_steps", "3"}, {"inner", "adamw:weight_decay=0.1"}}, model());
  std::set<std::set<size_t>> seen;
  for (int64_t s = 1; s <= 30; ++s) {
    std::vector<std::vector<float>> before;
    for (size_t i = 0; i <= kHead; ++i) before.push_back(run.weights(i));
    const std::set<size_t> last = active(run);
    step(run, s);
    const std::set<size_t> now = active(run);
    EXPECT_EQ(now.size(), 2u);
    if ((s - 1) % 3 != 0) {
      EXPECT_EQ(now, last) << "drawn inside an interval at step " << s;
    }
    seen.insert(now);
    for (size_t i = 0; i <= kHead; ++i) EXPECT_EQ(run.weights(i) == before[i], i < kTable && !now.contains(i / 2)) << i << " at step " << s;
    // State bytes: Adam's eight a parameter of what trains, and nothing for the rest.
    for (size_t i = 0; i <= kHead; ++i) EXPECT_EQ(run.state_bytes(i), i < kTable && !now.contains(i / 2) ? 0 : 8 * run.weights(i).size());
  }
  EXPECT_GT(seen.size(), 3u);
}

TEST_P(Lisa, WithEveryBlockIsItsInnerOptimizer) {
  for (const tn_dtype dtype : {kF32, kBF16}) {
    OptimizerRun lisa(GetParam(), {{"activated_layers", "5"}, {"interval_steps", "2"}}, model(dtype, true));
    OptimizerRun adamw(sibling_object(GetParam(), "adamw"), {}, model(dtype, true));
    for (int64_t s = 1; s <= 6; ++s) step(lisa, s), step(adamw, s);
    EXPECT_TRUE(lisa.same_bits(adamw));
  }
}

TEST_P(Lisa, ABlockThatEntersStartsFresh) {
  OptimizerRun run(GetParam(), {{"interval_steps", "1"}, {"activated_layers", "1"}, {"inner", "adamw:weight_decay=0"}}, model());
  std::set<size_t> last;
  for (int64_t s = 1; s <= 20; ++s) {
    run.plan(s);
    for (const size_t b : active(run)) {
      const std::vector<float> before = run.weights(2 * b), g = normals(before.size(), static_cast<uint32_t>(s));
      run.step(2 * b, g, {.lr = 0.5});
      if (last.contains(b)) continue;
      for (size_t i = 0; i < g.size(); ++i)  // the first step of Adam moves every weight by the rate
        EXPECT_NEAR(run.weights(2 * b)[i] - before[i], g[i] > 0 ? -0.5 : 0.5, 1e-4);
    }
    last = active(run);
  }
}

TEST_P(Lisa, KeptStatesWaitForTheirBlock) {
  OptimizerRun run(GetParam(), {{"interval_steps", "1"}, {"activated_layers", "1"}, {"carry", "keep"}}, model());
  std::map<size_t, std::vector<float>> left;
  size_t returned = 0;
  for (int64_t s = 1; s <= 20; ++s) {
    run.plan(s);
    const size_t b = *active(run).begin();
    if (left.contains(b)) {
      EXPECT_EQ(run.state(2 * b, "exp_avg").floats(), left[b]);
      ++returned;
    }
    run.step(2 * b, normals(96, static_cast<uint32_t>(s)));
    left[b] = run.state(2 * b, "exp_avg").floats();
  }
  EXPECT_GT(returned, 10u);
}

TEST_P(Lisa, EmbeddingAndHeadMayBeFrozen) {
  OptimizerRun run(GetParam(), {{"train_embed", "false"}, {"train_head", "false"}}, model());
  run.plan(1);
  EXPECT_TRUE(run.frozen(kTable));
  EXPECT_TRUE(run.frozen(kHead));
  EXPECT_FALSE(run.frozen(kNorm));
  EXPECT_EQ(run.state_bytes(kTable), 0u);
}

TEST_P(Lisa, ResumesInsideAnInterval) {
  for (const char* carry : {"drop", "keep"}) {
    const Hypers h{{"interval_steps", "4"}, {"carry", carry}};
    OptimizerRun straight(GetParam(), h, model()), first(GetParam(), h, model()), second(GetParam(), h, model());
    for (int64_t s = 1; s <= 14; ++s) step(straight, s);
    for (int64_t s = 1; s <= 6; ++s) step(first, s);
    second.resume_from(first);
    for (int64_t s = 7; s <= 14; ++s) step(second, s);
    EXPECT_TRUE(second.same_bits(straight)) << carry;
  }
}

TEST_P(Lisa, RefusesInWords) {
  const auto words = [&](const Hypers& h) {
    try {
      OptimizerRun run(GetParam(), h, model());
      return std::string();
    } catch (const Failure& f) {
      return f.sentence;
    }
  };
  EXPECT_NE(words({{"probs", "1;2"}}).find("5 blocks"), std::string::npos);
  EXPECT_NE(words({{"probs", "1;x"}}).find("1;x"), std::string::npos);
  EXPECT_NE(words({{"inner", "nothing"}}).find("nothing"), std::string::npos);
  OptimizerRun run(GetParam(), {{"activated_layers", "1"}}, model());
  run.plan(1);
  for (size_t b = 0; b < kBlocks; ++b)
    if (run.frozen(2 * b)) {
      EXPECT_EQ(run.step(2 * b, normals(96, 1)), TN_E_STATE);
    }
  for (const std::string& blob : {std::string(), std::string("x"), std::string(4096, '\xFF')})
    EXPECT_EQ(run.api().load(run.self(), blob.data(), blob.size()), TN_E_FORMAT);
}

// Chi-square of 10^4 draws of one block of eight, and of the first of two with weights.
TEST(LisaDraw, FollowsItsWeights) {
  const auto chi = [](const std::vector<double>& weights) {
    std::vector<double> hits(weights.size());
    for (int64_t k = 0; k < 10000; ++k) ++hits[draw_distinct({7, 1, static_cast<uint32_t>(k)}, weights, 2)[0]];
    double sum = 0, x = 0;
    for (const double w : weights) sum += w;
    for (size_t i = 0; i < weights.size(); ++i) x += std::pow(hits[i] - 1e4 * weights[i] / sum, 2) / (1e4 * weights[i] / sum);
    return x;
  };
  EXPECT_LT(chi(std::vector<double>(8, 1.0)), 24.3);  // 7 degrees of freedom: 0.1 % beyond
  EXPECT_LT(chi({1, 2, 3, 4}), 16.3);                 // 3 degrees of freedom
}

TEST(LisaDraw, TakesDistinctBlocksAndZerosLast) {
  for (int64_t k = 0; k < 1000; ++k) {
    const auto drawn = draw_distinct({3, 1, static_cast<uint32_t>(k)}, {0, 1, 0, 5, 2}, 4);
    EXPECT_EQ(std::set<size_t>(drawn.begin(), drawn.end()).size(), 4u);
    EXPECT_EQ(std::set<size_t>(drawn.begin(), drawn.begin() + 3), (std::set<size_t>{1, 3, 4}));
  }
  EXPECT_EQ(draw_distinct({3, 1, 0}, {1, 1}, 9).size(), 2u);
}

}  // namespace
}  // namespace tenon::sdk::testing
