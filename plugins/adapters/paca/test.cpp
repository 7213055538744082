// PaCA: both ways of changing columns, against dense gradients and a LoRA of frozen selectors.
#include "sdk/testing/adapter_problem.h"
#include "tests/reference/golden.h"

namespace tenon::paca::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

class Paca : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Paca, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

enum { kDelta, kIndex };

std::vector<int32_t> indices(AdapterProblem& p) {
  const Tensor& t = p.adapter.params[kIndex].value;
  std::vector<int32_t> out(static_cast<size_t>(t.size()));
  std::copy_n(static_cast<const int32_t*>(const_cast<Tensor&>(t).get()->data), out.size(), out.begin());
  return out;
}

TEST_P(Paca, StartsAsTheBaseExactly) {
  for (const bool lease : {false, true}) {
    AdapterProblem p(GetParam(), {33, 17, 21}), plain(GetParam(), {33, 17, 21});
    p.base.leases = lease;
    const std::vector<float> y = p.forward(p.x);
    EXPECT_EQ(relative_distance(y, p.product(p.base.weight)), 0);
  }
}

TEST_P(Paca, ColumnsAreSortedDistinctAndOfTheRightNumber) {
  AdapterProblem p(GetParam(), {5, 100, 2}, {{"r", "30"}});
  const std::vector<int32_t> index = indices(p);
  ASSERT_EQ(index.size(), 30u);
  for (size_t i = 0; i < index.size(); ++i) {
    EXPECT_GE(index[i], 0);
    EXPECT_LT(index[i], 100);
    if (i) {
      EXPECT_LT(index[i - 1], index[i]);
    }
  }
  AdapterProblem all(GetParam(), {5, 7, 2}, {{"r", "7"}});
  EXPECT_EQ(indices(all), (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6}));
}

TEST_P(Paca, TheLargestColumnsAreChosenByNorm) {
  TestAdapter paca(GetParam(), {{"r", "2"}, {"selection", "norm"}});
  ASSERT_EQ(paca.bind({{"q_proj", 2, 4}}), TN_OK);
  Base base{2, 4, {1, 5, 0, 3, 1, 0, 0, 3}, {}, 0, {}};
  paca.init(5, &base);
  const auto* index = static_cast<const int32_t*>(paca.params[kIndex].value.get()->data);
  EXPECT_EQ(index[0], 1);
  EXPECT_EQ(index[1], 3);
}

// The first steps only watch: then the columns of the largest accumulated gradient train, and a run that resumes or goes on from the file agrees.
TEST_P(Paca, TheLargestColumnsAreChosenByTheirGradients) {
  const TestAdapter::Options options{{"r", "3"}, {"paca_alpha", "3"}, {"selection", "gradient"}, {"selection_steps", "2"}};
  AdapterProblem p(GetParam(), {33, 17, 21}, options);
  EXPECT_EQ(p.adapter.retention.at(0), TN_RETAIN_INPUT);
  std::vector<double> squares(17);
  CallOptions o;
  for (o.step = 1; o.step <= 2; ++o.step) {
    p.x = normals(p.x.size(), 20 + static_cast<uint32_t>(o.step)), p.dy = normals(p.dy.size(), 30 + static_cast<uint32_t>(o.step));
    for (int64_t t = 0; t < 21; ++t)
      for (int64_t j = 0; j < 17; ++j) p.x[t * 17 + j] *= 1 + static_cast<float>(j * 7 % 17) / 8;  // far enough from ties
    p.run(o);
    EXPECT_EQ(norm(p.adapter.params[kDelta].grad.floats()), 0);
    for (int64_t j = 0; j < 17; ++j)
      for (int64_t i = 0; i < 33; ++i) {
        double g = 0;
        for (int64_t t = 0; t < 21; ++t) g += static_cast<double>(p.dy[t * 33 + i]) * p.x[t * 17 + j];
        squares[j] += g * g;
      }
  }
  std::vector<int32_t> expected;
  for (int32_t j = 0; j < 17; ++j)
    if (std::count_if(squares.begin(), squares.end(), [&](double other) { return other > squares[j]; }) < 3) expected.push_back(j);
  AdapterProblem resumed(GetParam(), {33, 17, 21}, options);
  resumed.adapter.params[2].value.assign(p.adapter.params[2].value.floats());
  for (AdapterProblem* run : {&p, &resumed}) {
    EXPECT_NE(indices(*run), expected);
    run->x = p.x, run->dy = p.dy;
    run->run(o);  // step 3
    EXPECT_EQ(indices(*run), expected);
    std::vector<double> dense;
    for (int64_t i = 0; i < 33; ++i)
      for (const int32_t j : expected) {
        double g = 0;
        for (int64_t t = 0; t < 21; ++t) g += static_cast<double>(p.dy[t * 33 + i]) * p.x[t * 17 + j];
        dense.push_back(g);
      }
    EXPECT_LT(relative_distance(run->adapter.params[kDelta].grad.floats(), dense), 1e-6);
  }
  const std::string config = p.adapter.config();
  TestAdapter from_file(GetParam(), {}, config.c_str());
  ASSERT_EQ(from_file.bind({{"q_proj", 33, 17}}), TN_OK);
  Base base = p.base;
  from_file.init(5, &base);
  for (size_t i = 0; i < 3; ++i) std::memcpy(from_file.params[i].value.get()->data, p.adapter.params[i].value.get()->data, p.adapter.params[i].value.bytes());
  Tensor x(kF32, {21, 17}, p.x), y(kF32, {21, 33});
  SavedSlots saved;
  for (o.step = 1; o.step <= 3; ++o.step) {
    from_file.forward(0, base, *x.get(), y.get(), saved, o);
    Tensor dy(kF32, {21, 33}, p.dy);
    from_file.backward(0, base, *dy.get(), nullptr, saved, o);
  }
  EXPECT_GT(norm(from_file.params[kDelta].grad.floats()), 0);
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), static_cast<const int32_t*>(from_file.params[kIndex].value.get()->data)));
}

TEST_P(Paca, SitesWithOneInputShareTheirColumnsUnlessToldOtherwise) {
  for (const bool tied : {true, false}) {
    TestAdapter paca(GetParam(), {{"r", "4"}, {"tie_inputs", tied ? "true" : "false"}});
    ASSERT_EQ(paca.bind({{"model.layers.0.self_attn.q_proj", 8, 64, TN_ROLE_Q},
                         {"model.layers.0.self_attn.k_proj", 8, 64, TN_ROLE_K}}),
              TN_OK);
    Base base{8, 64, normals(512, 3), {}, 0, {}};
    paca.init(5, &base);
    EXPECT_EQ(paca.params[1].value.bytes() == 0, false);
    const auto *q = static_cast<const int32_t*>(paca.params[1].value.get()->data),
               *k = static_cast<const int32_t*>(paca.params[3].value.get()->data);
    EXPECT_EQ(std::equal(q, q + 4, k), tied);
  }
}

// dΔ is columns I of s times the dense weight's gradient, and both ways are one function.
TEST_P(Paca, GradientIsTheDenseOneOfItsColumns) {
  for (const LinearSize& s : kLinearSizes)
    for (const bool lease : {false, true}) {
      AdapterProblem p(GetParam(), s, {{"r", s.n > 1 ? "2" : "1"}, {"paca_alpha", "3"}});
      p.base.leases = lease;
      p.randomise();
      const std::vector<float> before = p.base.weight;
      const auto [y, dx] = p.run();
      EXPECT_EQ(p.base.weight, before) << "the leased weight was not restored";
      EXPECT_FALSE(p.base.leased);
      const std::vector<int32_t> index = indices(p);
      const double scale = 3.0 / static_cast<double>(index.size());
      std::vector<float> dense(static_cast<size_t>(s.m) * index.size());
      for (int64_t i = 0; i < s.m; ++i)
        for (size_t j = 0; j < index.size(); ++j) {
          double sum = 0;
          for (int64_t t = 0; t < s.T; ++t) sum += static_cast<double>(p.dy[t * s.m + i]) * p.x[t * s.n + index[j]];
          dense[i * index.size() + j] = static_cast<float>(scale * sum);
        }
      EXPECT_LT(relative_distance(p.adapter.params[kDelta].grad.floats(), dense), 1e-6);
      EXPECT_LT(relative_distance(p.product(p.merged()), y), 1e-6);
      p.expect_gradients();
    }
}

TEST_P(Paca, BothWaysAgreeInBf16Too) {
  std::vector<float> y[2], dx[2];
  for (const bool lease : {false, true}) {
    AdapterProblem p(GetParam(), {33, 17, 21}, {{"r", "5"}});
    p.base.leases = lease;
    p.randomise();
    std::tie(y[lease], dx[lease]) = p.run({}, kBF16);
  }
  EXPECT_LT(relative_distance(y[0], y[1]), 0.02);
  EXPECT_LT(relative_distance(dx[0], dx[1]), 0.02);
}

TEST_P(Paca, EqualsTheAuthors) {
  const golden::File file("paca/paca.safetensors");
  const nlohmann::json settings = file.setting("settings");
  for (const auto& [name, c] : settings.items())
    for (const bool lease : {false, true}) {
      AdapterProblem p(GetParam(), {c["m"], c["n"], c["T"]}, {{"r", c["r"].dump()}, {"paca_alpha", c["alpha"].dump()}});
      p.base.leases = lease;
      p.base.weight = file.f32(name + ".weight"), p.x = file.f32(name + ".x"), p.dy = file.f32(name + ".dy");
      const std::vector<int32_t> index = file.i32(name + ".index");
      std::copy(index.begin(), index.end(), static_cast<int32_t*>(p.adapter.params[kIndex].value.get()->data));
      p.adapter.params[kDelta].value.assign(file.f32(name + ".delta"));
      const auto [y, dx] = p.run();
      EXPECT_LT(relative_distance(y, file.f32(name + ".y")), 1e-6) << name;
      EXPECT_LT(relative_distance(dx, file.f32(name + ".dx")), 1e-6) << name;
      EXPECT_LT(relative_distance(p.adapter.params[kDelta].grad.floats(), file.f32(name + ".ddelta")), 1e-6) << name;
      EXPECT_LT(relative_distance(p.merged(), file.f32(name + ".merged")), 1e-6) << name;
    }
}

// Plain SGD on Δ is plain SGD on B of a LoRA whose A selects the columns and stays as it is.
TEST_P(Paca, FollowsALoraOfFrozenSelectors) {
  AdapterProblem p(GetParam(), {5, 7, 3}, {{"r", "2"}, {"paca_alpha", "2"}});
  const std::vector<int32_t> index = indices(p);
  std::vector<double> b(10, 0);  // B [5, 2], s = 1
  for (int step = 0; step < 5; ++step) {
    (void)p.run();
    const std::vector<float> g = p.adapter.params[kDelta].grad.floats();
    p.adapter.params[kDelta].value.assign(AdapterProblem::moved(p.adapter.params[kDelta].value.floats(), g, -0.01));
    for (int i = 0; i < 5; ++i)
      for (int j = 0; j < 2; ++j)
        for (int t = 0; t < 3; ++t) b[i * 2 + j] -= 0.01 * p.dy[t * 5 + i] * p.x[t * 7 + index[j]];
  }
  EXPECT_LT(relative_distance(p.adapter.params[kDelta].value.floats(), b), 1e-6);
}

TEST_P(Paca, KeepsOnlyItsColumnsForBackward) {
  AdapterProblem p(GetParam(), {33, 64, 21}, {{"r", "4"}});
  SavedSlots saved;
  (void)p.forward(p.x, &saved);
  EXPECT_EQ(saved.bytes(), 21u * 4 * 4);
  EXPECT_TRUE(saved.inputs.empty());
  EXPECT_EQ(p.adapter.retention.at(0), TN_RETAIN_OWN);
}

TEST_P(Paca, MoreColumnsThanThereAreIsRefusedByName) {
  TestAdapter paca(GetParam(), {{"r", "9"}});
  EXPECT_EQ(paca.bind({{"model.layers.0.self_attn.q_proj", 5, 7}}), TN_E_ARGUMENT);
  EXPECT_NE(paca.host.error.find("7 input columns"), std::string::npos) << paca.host.error;
}

TEST_P(Paca, ItsFileKeepsEverySetting) {
  TestAdapter paca(GetParam(),
                   {{"r", "3"}, {"paca_alpha", "2.5"}, {"selection", "norm"}, {"target_modules", "q_proj+down_proj"}});
  const std::string text = paca.config();
  TestAdapter again(GetParam(), {}, text.c_str());
  EXPECT_EQ(again.config(), text);
  EXPECT_NE(text.find("\"peft_type\": \"PACA\""), std::string::npos);
  EXPECT_THROW(TestAdapter(GetParam(), {}, R"({"peft_type": "PACA", "r": 0, "target_modules": ["q_proj"]})"), Failure);
  EXPECT_THROW(
      TestAdapter(GetParam(), {}, R"({"peft_type": "PACA", "selection": "best", "target_modules": ["q_proj"]})"),
      Failure);
}

}  // namespace
}  // namespace tenon::paca::testing
