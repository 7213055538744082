// LR-QAT: its start is round-to-nearest, its export the same integers, its gradients those of the straight-through
// rule.
#include "adapters/lr-qat/grid.h"
#include "sdk/testing/adapter_problem.h"
#include "tests/reference/golden.h"

namespace tenon::lr_qat::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

class LrQat : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, LrQat, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

enum { kA, kB, kScale, kPhi };

struct Case {
  int64_t bits, group;
};
const Case kCases[] = {{4, 0}, {2, 0}, {3, 4}, {7, 4}};

TestAdapter::Options options(const Case& c, const char* rank = "3") {
  return {{"bits", std::to_string(c.bits)}, {"group_size", std::to_string(c.group)}, {"r", rank}, {"lora_alpha", "4"}};
}

// Codes of a merged weight.
std::vector<float> codes(AdapterProblem& p, const Case& c, const std::vector<float>& w) {
  const std::vector<float> s = p.adapter.params[kScale].value.floats();
  const int64_t n = p.size.n, group = c.group == 0 ? n : std::min(c.group, n), groups = (n + group - 1) / group;
  std::vector<float> out(w.size());
  for (size_t i = 0; i < w.size(); ++i) out[i] = w[i] / s[i / n * groups + i % n / group];
  return out;
}

TEST_P(LrQat, StartsAsRoundToNearestButForTies) {
  for (const LinearSize& size : kLinearSizes)
    for (const Case& c : kCases) {
      AdapterProblem p(GetParam(), size, options(c));
      const std::vector<float> start = codes(p, c, p.merged()), exact = codes(p, c, p.base.weight);
      const float low = -std::ldexp(1.0f, static_cast<int>(c.bits) - 1), high = -low - 1,
                  tie = std::ldexp(1.0f, static_cast<int>(c.bits) - 9);
      for (size_t i = 0; i < start.size(); ++i) {
        EXPECT_NEAR(start[i], std::rint(start[i]), 1e-4);  // an integer of the grid
        EXPECT_GE(std::rint(start[i]), low);
        EXPECT_LE(std::rint(start[i]), high);
        const float clamped = std::clamp(exact[i], low, high);
        EXPECT_LE(std::fabs(clamped - std::rint(start[i])), 0.5f + tie + 1e-4f);
      }
    }
}

TEST_P(LrQat, TheScaleIsNoWorseThanThatOfTheLargestMagnitude) {
  AdapterProblem p(GetParam(), {5, 64, 2}, options({3, 0}));
  const std::vector<float> s = p.adapter.params[kScale].value.floats();
  const Grid grid{3, 64, 64};
  for (int64_t i = 0; i < 5; ++i) {
    const float* w = p.base.weight.data() + i * 64;
    float most = 0;
    for (int j = 0; j < 64; ++j) most = std::max(most, std::fabs(w[j]));
    const auto error = [&](float scale) {
      double e = 0;
      for (int j = 0; j < 64; ++j) e += std::pow(w[j] - scale * grid.code(w[j] / scale), 4);
      return e;
    };
    EXPECT_LE(error(s[i]), error(most / 3) * (1 + 1e-5));
  }
}

TEST_P(LrQat, TheExportIsTheTrainedFunctionBitForBit) {
  for (const Case& c : kCases) {
    AdapterProblem p(GetParam(), {33, 17, 21}, options(c));
    p.randomise(0.2f);
    const std::vector<float> w = p.merged();
    EXPECT_LT(relative_distance(p.product(w), p.forward(p.x)), 1e-6);
    for (float q : codes(p, c, w)) EXPECT_NEAR(q, std::rint(q), 1e-3);
  }
}

// The scales stand outside the rounding, so finite differences give their gradient; the factors follow the
// straight-through rule.
TEST_P(LrQat, ScalesAndInputAgreeWithFiniteDifferences) {
  for (const LinearSize& size : kLinearSizes)
    for (const Case& c : kCases) {
      AdapterProblem p(GetParam(), size, options(c));
      p.randomise(0.1f);
      p.expect_gradients({"lora_A.weight", "lora_B.weight"}, 1e-3);
    }
}

TEST_P(LrQat, FactorsFollowTheStraightThroughRule) {
  const Case c{3, 4};
  AdapterProblem p(GetParam(), {5, 7, 3}, options(c, "2"));
  p.randomise(0.5f);
  (void)p.run();
  const std::vector<float> a = p.adapter.params[kA].value.floats(), b = p.adapter.params[kB].value.floats(),
                           s = p.adapter.params[kScale].value.floats();
  const auto* phi = static_cast<const int8_t*>(p.adapter.params[kPhi].value.get()->data);
  const Grid grid{3, 7, 4};
  const double factor = 4.0 / 2;
  std::vector<double> da(10), db(14);
  for (int i = 0; i < 5; ++i)
    for (int j = 0; j < 7; ++j) {
      double z = phi[i * 7 + j] * grid.fraction(), g = 0;
      for (int k = 0; k < 2; ++k) z += factor * a[i * 2 + k] * b[k * 7 + j];
      for (int t = 0; t < 3; ++t) g += static_cast<double>(p.dy[t * 5 + i]) * p.x[t * 7 + j];
      const double dz = g * s[i * 2 + j / 4] * grid.passes(static_cast<float>(z));
      for (int k = 0; k < 2; ++k)
        da[i * 2 + k] += factor * dz * b[k * 7 + j], db[k * 7 + j] += factor * dz * a[i * 2 + k];
    }
  EXPECT_LT(relative_distance(p.adapter.params[kA].grad.floats(), da), 1e-5);
  EXPECT_LT(relative_distance(p.adapter.params[kB].grad.floats(), db), 1e-5);
}

TEST_P(LrQat, EqualsTheAuthors) {
  const golden::File file("lr-qat/lr-qat.safetensors");
  const nlohmann::json settings = file.setting("settings");
  for (const auto& [name, c] : settings.items()) {
    AdapterProblem p(GetParam(), {c["m"], c["n"], c["T"]},
                     {{"bits", c["bits"].dump()}, {"group_size", c["group"].dump()}, {"r", c["r"].dump()}, {"lora_alpha", c["alpha"].dump()}});
    p.x = file.f32(name + ".x"), p.dy = file.f32(name + ".dy");
    // Their fixed-point weights are ours for their scales.
    const std::vector<int8_t> phi = file.i8(name + ".phi");
    const std::vector<float> w = file.f32(name + ".weight"), s = file.f32(name + ".s");
    const int64_t n = c["n"], group = c["group"] == 0 ? n : c["group"].get<int64_t>();
    const Grid grid{c["bits"], n, group};
    for (size_t i = 0; i < phi.size(); ++i) EXPECT_EQ(grid.fixed(w[i] / s[i / group]), phi[i]) << name << i;
    std::copy(phi.begin(), phi.end(), static_cast<int8_t*>(p.adapter.params[kPhi].value.get()->data));
    p.adapter.params[kScale].value.assign(s);
    p.adapter.params[kA].value.assign(file.f32(name + ".A")), p.adapter.params[kB].value.assign(file.f32(name + ".B"));
    const auto [y, dx] = p.run();
    EXPECT_LT(relative_distance(p.merged(), file.f32(name + ".merged")), 1e-6) << name;
    EXPECT_LT(relative_distance(y, file.f32(name + ".y")), 1e-6) << name;
    EXPECT_LT(relative_distance(dx, file.f32(name + ".dx")), 1e-6) << name;
    EXPECT_LT(relative_distance(p.adapter.params[kA].grad.floats(), file.f32(name + ".dA")), 2e-6) << name;
    EXPECT_LT(relative_distance(p.adapter.params[kB].grad.floats(), file.f32(name + ".dB")), 2e-6) << name;
    EXPECT_LT(relative_distance(p.adapter.params[kScale].grad.floats(), file.f32(name + ".ds")), 2e-6) << name;
  }
}

// With enough rank and strength weights move by several grid steps: a regression that rounding alone cannot fit.
TEST_P(LrQat, LearnsWhatRoundingLost) {
  AdapterProblem p(GetParam(), {6, 8, 40}, {{"bits", "3"}, {"r", "8"}, {"lora_alpha", "8"}});
  const std::vector<float> target = p.product(normals(48, 77, 0.5f));
  const auto error = [&] { return relative_distance(p.forward(p.x), target); };
  const double before = error();
  for (int step = 0; step < 200; ++step) {
    p.dy = p.forward(p.x);
    for (size_t i = 0; i < p.dy.size(); ++i) p.dy[i] = (p.dy[i] - target[i]) / 40;
    (void)p.run();
    for (int k : {kA, kB})
      p.adapter.params[k].value.assign(
          AdapterProblem::moved(p.adapter.params[k].value.floats(), p.adapter.params[k].grad.floats(), -0.5));
  }
  EXPECT_LT(error(), 0.5 * before);
}

TEST_P(LrQat, HoldsOneBytePerWeight) {
  AdapterProblem p(GetParam(), {33, 17, 21}, options({4, 0}));
  EXPECT_TRUE(p.adapter.owned.at(0));
  EXPECT_EQ(p.adapter.params[kPhi].value.bytes(), 33u * 17);
  (void)p.run();
  EXPECT_EQ(p.base.calls, 0);
}

}  // namespace
}  // namespace tenon::lr_qat::testing
