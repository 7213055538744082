// QST beside a stack of small blocks: no gradient goes through the backbone.
#include "sdk/testing/region.h"

namespace tenon::qst::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

class Qst : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Qst, ::testing::ValuesIn(plugin_objects()), [](const auto& p) { return object_label(p.param); });

const TestRegion::Size kSize{.blocks = 3, .hidden = 16};
std::vector<float> numbers(uint32_t stream) { return normals(static_cast<size_t>(kSize.rows * kSize.hidden), stream); }

bool finite(const std::vector<std::vector<float>>& all) {
  for (const auto& v : all)
    for (float x : v)
      if (!std::isfinite(x)) return false;
  return true;
}

// The backbone's weights become NaN between forward and backward: not a bit of a gradient changes, unless the taps are to be found again.
TEST_P(Qst, APoisonedBackboneDoesNotReachTheGradients) {
  const TestAdapter::Options cases[] = {{}, {{"downsample", "frozen"}}, {{"downsample", "pool"}}, {{"activation", "silu"}}, {{"taps", "rerun"}}};
  for (const auto& options : cases) {
    TestAdapter::Options all = options;
    all["reduction"] = "2", all["r"] = "4", all["output_logit"] = "0";
    TestRegion r(GetParam(), all, kSize);
    r.forward(numbers(1)), r.backward(numbers(2), false);
    const auto expected = r.gradients();
    EXPECT_TRUE(finite(expected));
    for (const TestRegion::Call& c : r.calls) EXPECT_FALSE(c.kept && c.block < kSize.blocks);
    r.forward(numbers(1));
    for (auto& half : r.halves) half.assign(half.size(), NAN);
    r.backward(numbers(2), false);
    EXPECT_EQ(r.backbone_backwards, 0);
    if (options.contains("taps"))
      EXPECT_FALSE(finite(r.gradients()));
    else
      EXPECT_EQ(r.gradients(), expected);
  }
}

TEST_P(Qst, SendsNoGradientToTheEmbedding) {
  TestRegion r(GetParam(), {{"reduction", "2"}, {"r", "4"}}, kSize);
  r.forward(numbers(1));
  try {
    r.backward(numbers(2), true);
    FAIL();
  } catch (const Failure& e) {
    EXPECT_NE(e.sentence.find("no gradient to the embedding"), std::string::npos) << e.sentence;
  }
}

// What stays for backward: the side network's, and taps where a factor's gradient needs them.
TEST_P(Qst, KeepsTapsOnlyWhereTheyAreNeeded) {
  const auto kept = [&](TestAdapter::Options options) {
    options["reduction"] = "4", options["r"] = "2";
    TestRegion r(GetParam(), options, kSize);
    r.forward(numbers(1));
    return r.kept_bytes();
  };
  const uint64_t tap = 5 * 16 * 4;
  EXPECT_EQ(kept({}), kept({{"downsample", "frozen"}}) + 4 * tap);
  EXPECT_EQ(kept({{"taps", "rerun"}}), kept({{"downsample", "frozen"}}) + tap);
}

TEST_P(Qst, AReductionThatDoesNotDivideIsRefusedWithItsNumbers) {
  try {
    TestRegion r(GetParam(), {{"reduction", "3"}}, kSize);
    FAIL();
  } catch (const Failure& e) {
    EXPECT_NE(e.sentence.find("reduction 3 must divide the model's width 16"), std::string::npos) << e.sentence;
  }
}

}  // namespace
}  // namespace tenon::qst::testing
