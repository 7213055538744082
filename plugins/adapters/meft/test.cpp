// MEFT over a stack of small blocks: what inversion gives back, what it keeps, and that it replays.
#include "sdk/testing/region.h"

namespace tenon::meft::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

class Meft : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Meft, ::testing::ValuesIn(plugin_objects()), [](const auto& p) { return object_label(p.param); });

std::vector<float> input(const TestRegion& r, uint32_t stream = 1) { return normals(static_cast<size_t>(r.size.rows * r.size.hidden), stream); }

// The largest error of what a half of a block is run on in backward, relative to what it was run on in forward.
double worst_stream(TestRegion& r) {
  r.forward(input(r));
  const std::vector<TestRegion::Call> forward = r.calls;
  r.calls.clear();
  r.backward(input(r, 2), true);
  EXPECT_EQ(r.calls.size(), forward.size());
  double worst = 0;
  for (const TestRegion::Call& again : r.calls)
    for (const TestRegion::Call& once : forward)
      if (once.block == again.block && once.part == again.part) worst = std::max(worst, relative_distance(again.x, once.x));
  return worst;
}

// The arithmetic of inversion is the host's here: the emulated GPU, whose every operation is guarded, sees the order of calls in a few blocks.
TEST_P(Meft, StreamsComeBackToAThousandthThroughThirtyTwoBlocks) {
  const bool few = is_emulated(GetParam());
  for (const char* variant : {"1", "2", "3"}) {
    const auto worst = [&](const char* every, int64_t blocks) {
      TestRegion r(GetParam(), {{"variant", variant}, {"bottleneck", "2"}, {"anchor_every", every}}, {.blocks = blocks, .hidden = 4, .rows = 2});
      return worst_stream(r);
    };
    EXPECT_LT(worst("0", few ? 4 : 32), 1e-3) << variant;
    if (!few) {
      EXPECT_GT(worst("64", 32), 1e-3) << variant;  // which is why pairs are kept
    }
  }
}

// Of a block alone, whatever the weights of the streams.
TEST_P(Meft, OneBlockInvertsToRounding) {
  for (const char* variant : {"1", "2", "3"})
    for (const char* weight : {"0.1", "2"}) {
      TestRegion r(GetParam(), {{"variant", variant}, {"lambda", weight}, {"beta", weight}, {"anchor_every", "1"}, {"bottleneck", "2"}}, {.blocks = 2, .hidden = 4, .rows = 2});
      EXPECT_LT(worst_stream(r), 1e-5) << variant << " " << weight;
    }
}

TEST_P(Meft, WithoutItsHalvesItIsTheIdentity) {
  for (const char* variant : {"1", "2", "3"}) {
    TestRegion r(GetParam(), {{"variant", variant}, {"lambda", "1"}, {"beta", "1"}, {"bottleneck", "2"}}, {.blocks = 3, .hidden = 8});
    r.carry = r.strength = 0;
    for (auto& p : r.params) p.value.assign(std::vector<float>(static_cast<size_t>(p.value.size())));
    const std::vector<float> x = input(r), dy = input(r, 2), y = r.forward(x), dx = r.backward(dy, true);
    for (int64_t t = 0; t < r.size.rows; ++t) {  // but for the final norm, whose gain is 1
      double squares = 8e-6, dot = 0;
      for (int j = 0; j < 8; ++j) squares += x[t * 8 + j] * x[t * 8 + j], dot += x[t * 8 + j] * dy[t * 8 + j];
      const double scale = 1 / std::sqrt(squares / 8);
      for (int j = 0; j < 8; ++j) {
        EXPECT_NEAR(y[t * 8 + j], scale * x[t * 8 + j], 1e-6) << variant;
        EXPECT_NEAR(dx[t * 8 + j], scale * (dy[t * 8 + j] - x[t * 8 + j] * scale * scale * dot / 8), 1e-6) << variant;
      }
    }
  }
}

TEST_P(Meft, KeepsTwoStreamsAndAPairForEachAnchor) {
  const auto kept = [&](int64_t blocks, const char* every) {
    TestRegion r(GetParam(), {{"anchor_every", every}, {"bottleneck", "1"}}, {.blocks = blocks, .hidden = 4, .rows = 2});
    r.forward(input(r));
    return r.kept_bytes();
  };
  const uint64_t pair = 2 * 2 * 4 * 4;
  EXPECT_EQ(kept(9, "64"), kept(2, "64"));
  EXPECT_EQ(kept(9, "64"), pair + pair / 2 + 2 * 4);  // what the final norm's gradient needs beside them
  EXPECT_EQ(kept(9, "3"), kept(2, "64") + 2 * pair);
  EXPECT_EQ(kept(4, "0"), kept(2, "64") + pair);  // before the fourth block, as errors grow tenfold a block and more
}

// What is dropped in the forward is dropped again when its halves are run for backward, and nothing in evaluation.
TEST_P(Meft, DropoutReplays) {
  const bool few = is_emulated(GetParam());
  for (const char* variant : {"1", "2", "3"}) {
    TestRegion r(GetParam(), {{"variant", variant}, {"dropout", "0.5"}, {"bottleneck", "4"}}, {.blocks = few ? 1 : 3, .hidden = 8});
    for (size_t i = 0; i < r.params.size(); ++i) r.params[i].value.assign(normals(static_cast<size_t>(r.params[i].value.size()), static_cast<uint32_t>(40 + i), 0.5f));
    const std::vector<float> x = input(r), dy = input(r, 2), y = r.forward(x);
    EXPECT_EQ(r.forward(x), y) << "the same step";
    EXPECT_GT(relative_distance(r.forward(x, false), y), 1e-3) << "evaluation drops nothing";
    r.rng.stream = 2;
    EXPECT_GT(relative_distance(r.forward(x), y), 1e-3) << "another step drops others";
    r.rng.stream = 1;
    EXPECT_LT(worst_stream(r), 1e-3) << variant;
    if (few) continue;
    r.forward(x), r.backward(dy, true);
    const auto loss = [&] {
      const std::vector<float> out = r.forward(x);
      double sum = 0;
      for (size_t i = 0; i < out.size(); ++i) sum += static_cast<double>(out[i]) * dy[i];
      return sum;
    };
    for (auto& p : r.params) {
      const std::vector<float> value = p.value.floats(), g = p.grad.floats(), d = normals(value.size(), 91);
      double slope = 0;
      std::vector<float> moved = value;
      for (size_t i = 0; i < d.size(); ++i) slope += static_cast<double>(g[i]) * d[i], moved[i] += 1e-3f * d[i];
      p.value.assign(moved);
      const double above = loss();
      for (size_t i = 0; i < d.size(); ++i) moved[i] = value[i] - 1e-3f * d[i];
      p.value.assign(moved);
      const double below = loss();
      p.value.assign(value);
      EXPECT_NEAR(slope, (above - below) / 2e-3, 0.02 * std::fabs(slope) + 0.02 * norm(g) + 1e-3) << variant << " " << p.key;
    }
  }
}

TEST_P(Meft, MoreReversibleBlocksThanThereAreAreRefused) {
  try {
    TestRegion r(GetParam(), {{"reversible_blocks", "9"}}, {.blocks = 2, .hidden = 8});
    FAIL();
  } catch (const Failure& e) {
    EXPECT_NE(e.sentence.find("reversible_blocks is 9 but the model has 2 blocks"), std::string::npos) << e.sentence;
  }
}

}  // namespace
}  // namespace tenon::meft::testing
