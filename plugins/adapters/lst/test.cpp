// LST beside a stack of small blocks: which units of the backbone its own start from, and that no gradient goes through the backbone.
#include "sdk/testing/region.h"

namespace tenon::lst::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

class Lst : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Lst, ::testing::ValuesIn(plugin_objects()), [](const auto& p) { return object_label(p.param); });

const TestRegion::Size kSize{.blocks = 2, .hidden = 16, .intermediate = 12, .heads = 2, .kv_heads = 1};

double magnitude(const Base& w, int64_t row, int64_t column) {  // of a row (column −1) or a column
  double sum = 0;
  for (int64_t i = 0; i < w.m; ++i)
    for (int64_t j = 0; j < w.n; ++j)
      if (i == row || j == column) sum += std::fabs(w.weight[i * w.n + j]);
  return sum;
}
std::vector<int64_t> largest(const std::vector<double>& scores, size_t k) {
  std::vector<int64_t> out;
  for (size_t i = 0; i < scores.size(); ++i) {
    size_t better = 0;
    for (size_t j = 0; j < scores.size(); ++j) better += scores[j] > scores[i];
    if (better < k) out.push_back(static_cast<int64_t>(i));
  }
  return out;
}

TEST_P(Lst, StartsFromTheUnitsOfTheLargestMagnitudes) {
  TestRegion r(GetParam(), {{"reduction_factor", "2"}}, kSize);
  enum { kQ, kK, kV, kO, kGate, kUp, kDown };
  std::vector<double> scores;
  for (int64_t j = 0; j < 16; ++j) scores.push_back(magnitude(r.weights.back(), -1, j));
  const std::vector<int64_t> hidden = largest(scores, 8);
  for (int block = 0; block < 2; ++block) {
    const auto weight = [&](int slot) -> const Base& { return r.weights[static_cast<size_t>(7 * block + slot)]; };
    const auto start = [&](const char* name) { return r.param("layers." + std::to_string(block) + ".block." + name).value.floats(); };
    scores.clear();
    for (int64_t i = 0; i < 12; ++i) scores.push_back(magnitude(weight(kGate), i, -1) * magnitude(weight(kUp), i, -1) * magnitude(weight(kDown), -1, i));
    const std::vector<int64_t> mlp = largest(scores, 6);
    scores.clear();
    for (int64_t i = 0; i < 8; ++i) scores.push_back(magnitude(weight(kV), i, -1) * (magnitude(weight(kO), -1, i) + magnitude(weight(kO), -1, 8 + i)));
    const std::vector<int64_t> written = largest(scores, 4);
    std::vector<float> gate, down, v, o, q;
    for (int64_t i = 0; i < 6; ++i)
      for (int64_t j = 0; j < 8; ++j) gate.push_back(weight(kGate).weight[mlp[i] * 16 + hidden[j]]);
    for (int64_t i = 0; i < 8; ++i)
      for (int64_t j = 0; j < 6; ++j) down.push_back(weight(kDown).weight[hidden[i] * 12 + mlp[j]]);
    for (int64_t i = 0; i < 4; ++i)
      for (int64_t j = 0; j < 8; ++j) v.push_back(weight(kV).weight[written[i] * 16 + hidden[j]]);
    for (int64_t i = 0; i < 8; ++i)
      for (int64_t j = 0; j < 8; ++j) o.push_back(weight(kO).weight[hidden[i] * 16 + j / 4 * 8 + written[j % 4]]);
    const int64_t pairs[] = {0, 2, 4, 6};  // of a head of 8: pairs 0 and 2 of four turn at the copy's own speeds
    for (int64_t i = 0; i < 8; ++i)
      for (int64_t j = 0; j < 8; ++j) q.push_back(weight(kQ).weight[(i / 4 * 8 + pairs[i % 4]) * 16 + hidden[j]]);
    EXPECT_EQ(start("gate"), gate);
    EXPECT_EQ(start("down"), down);
    EXPECT_EQ(start("v"), v);
    EXPECT_EQ(start("o"), o);
    EXPECT_EQ(start("q"), q);
  }
}

TEST_P(Lst, EvenlySpreadUnitsNeedNoRanking) {
  TestRegion r(GetParam(), {{"reduction_factor", "2"}, {"init", "even"}}, kSize);
  const std::vector<float> up = r.param("layers.1.block.up").value.floats(), v = r.param("layers.1.block.v").value.floats();
  const int64_t pairs[] = {0, 2, 4, 6};
  for (int64_t j = 0; j < 8; ++j) {
    for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(up[i * 8 + j], r.weights[7 + 5].weight[2 * i * 16 + 2 * j]);
    for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(v[i * 8 + j], r.weights[7 + 2].weight[pairs[i] * 16 + 2 * j]);
  }
}

TEST_P(Lst, APoisonedBackboneDoesNotReachTheGradients) {
  for (const char* gate : {"before", "after"}) {
    TestRegion r(GetParam(), {{"reduction_factor", "2"}, {"gate", gate}}, kSize);
    const std::vector<float> x = normals(5 * 16, 1), dy = normals(5 * 16, 2);
    r.forward(x), r.backward(dy, false);
    const auto expected = r.gradients();
    r.forward(x);
    for (auto& half : r.halves) half.assign(half.size(), NAN);
    r.backward(dy, false);
    EXPECT_EQ(r.gradients(), expected) << gate;
    EXPECT_EQ(r.backbone_backwards, 0);
  }
}

TEST_P(Lst, SettingsThatMakeNoSenseAreRefused) {
  const auto sentence = [&](const TestAdapter::Options& options) -> std::string {
    try {
      TestRegion r(GetParam(), options, kSize);
      return "";
    } catch (const Failure& e) {
      return e.sentence;
    }
  };
  EXPECT_NE(sentence({{"reduction_factor", "2"}, {"dropped_layers", "0+x"}}).find("block numbers joined by +"), std::string::npos);
  EXPECT_NE(sentence({{"reduction_factor", "2"}, {"dropped_layers", "0+1"}}).find("keep at least one"), std::string::npos);
  EXPECT_NE(sentence({{"reduction_factor", "16"}}).find("choose another reduction"), std::string::npos);
}

}  // namespace
}  // namespace tenon::lst::testing
