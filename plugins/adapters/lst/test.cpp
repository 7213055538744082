// LST beside a stack of small blocks: which units of the backbone its own start from, evenly spread, and that no gradient goes through the backbone.
#include "sdk/testing/region.h"

namespace tenon::lst::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

class Lst : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Lst, ::testing::ValuesIn(plugin_objects()), [](const auto& p) { return object_label(p.param); });

const TestRegion::Size kSize{.blocks = 2, .hidden = 16, .intermediate = 12, .heads = 2, .kv_heads = 1};

TEST_P(Lst, StartsFromEvenlySpreadUnits) {
  TestRegion r(GetParam(), {{"reduction_factor", "2"}}, kSize);
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
