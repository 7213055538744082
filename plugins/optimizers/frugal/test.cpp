#include "optimizers/frugal/reference.h"

#include <map>
#include <set>

#include "sdk/testing/gradients.h"
#include "sdk/testing/optimizer_checks.h"
#include "tests/reference/golden.h"

namespace tenon::sdk::testing {
namespace {

using Hypers = std::map<std::string, std::string>;

class Frugal : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Frugal, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

// Which elements of an m × n matrix have states, as the state says.
std::vector<bool> chosen_in(OptimizerRun& run, const std::string& split, size_t m, size_t n) {
  const auto raw = run.state(0, "chosen").raw();
  std::vector<int32_t> index(raw.size() / 4);
  if (!index.empty()) std::memcpy(index.data(), raw.data(), 4 * index.size());
  std::vector<bool> out(m * n);
  for (size_t i = 0; i < m * n; ++i) {
    if (split == "randk") out[i] = static_cast<uint8_t>(raw[i / 8]) >> (i % 8) & 1;
    if (split == "rows") out[i] = index[i / n] >= 0;
  }
  if (split == "columns")
    for (const int32_t j : index)
      for (size_t i = 0; i < m; ++i) out[i * n + static_cast<size_t>(j)] = true;
  return out;
}

TEST_P(Frugal, FollowsTheOracle) {
  for (const std::string split : {"columns", "rows", "randk"}) {
    for (const auto& [m, n] :
         std::vector<std::pair<int64_t, int64_t>>{{64, 64}, {96, 40}, {257, 130}, {3, 2500}, {1, 7}}) {
      for (const auto& [name, rule] :
           std::vector<std::pair<std::string, int>>{{"sign_sgd", 2}, {"sgd", 1}, {"no", 0}}) {
        const auto rows = static_cast<size_t>(m), columns = static_cast<size_t>(n);
        OptimizerRun run(GetParam(),
                         {{"split", split},
                          {"density", "0.3"},
                          {"update_gap", "4"},
                          {"inactive_update_rule", name},
                          {"inactive_lr_scale", "0.5"},
                          {"proj_params_lr_scale", "2"},
                          {"weight_decay", "0.1"}},
                         {matrix(m, n)});
        reference::Frugal oracle{.lambda = 0.1, .mult = 2, .c = 0.5, .rule = rule};
        const std::vector<float> start = run.weights();
        std::vector<double> w(start.begin(), start.end());
        std::vector<bool> chosen, before;
        for (int t = 1; t <= 9; ++t) {
          const std::vector<float> g = normals(start.size(), 10 + t);
          ASSERT_EQ(run.step(0, g, {.lr = 1e-2}), TN_OK) << run.host.error;
          if (t % 4 == 1) before = chosen, chosen = chosen_in(run, split, rows, columns);
          if (t % 4 == 1 && rows >= 40) {
            EXPECT_TRUE(chosen != before);
          }
          oracle.step(w, g, chosen, 1e-2, (t - 1) % 4 + 1);
        }
        const auto taken = static_cast<size_t>(std::count(chosen.begin(), chosen.end(), true));
        const size_t expected = split == "columns" ? rows * static_cast<size_t>(0.3 * static_cast<double>(n))
                                : split == "rows"  ? columns * static_cast<size_t>(0.3 * static_cast<double>(m))
                                                   : static_cast<size_t>(0.3 * static_cast<double>(m * n));
        EXPECT_EQ(taken, expected);
        std::vector<double> move(w);
        for (size_t i = 0; i < w.size(); ++i) move[i] -= start[i];
        EXPECT_LT(relative_distance(moved(run.weights(), start), move), 2e-5) << split << m << "x" << n << name;
      }
    }
  }
}

TEST_P(Frugal, EqualsTheAuthors) {
  const golden::File file("frugal/frugal.safetensors"), inputs("galore/galore.safetensors");
  const nlohmann::json settings = file.setting("settings");
  for (const auto& [label, s] : settings.items()) {
    for (const std::string name : {"tall", "wide"}) {
      const std::vector<float> start = inputs.f32(name + ".start");
      const std::vector<int8_t> all = inputs.i8(name + ".gradients");
      const std::string cls = s["cls"];
      OptimizerRun run(GetParam(),
                       {{"split", cls == "galore" ? "svd" : cls},
                        {"density", s["density"].dump()},
                        {"update_gap", "4"},
                        {"inactive_update_rule", s["inactive_update_rule"]},
                        {"inactive_lr_scale", std::to_string(s.value("inactive_lr_scale", 1.0))},
                        {"proj_params_lr_scale", std::to_string(s.value("proj_params_lr_scale", 1.0))},
                        {"weight_decay", s["weight_decay"].dump()}},
                       {{inputs.shape(name + ".start"), start, TN_ROLE_UP}});
      for (size_t t = 1; t <= 12; ++t) {
        std::vector<float> g(start.size());
        for (size_t i = 0; i < g.size(); ++i) g[i] = all[(t - 1) * g.size() + i] / 64.0f;
        run.step(0, g, {.lr = 0.01});
        const std::string key = name + "." + label + ".step" + std::to_string(t);
        if (!file.has(key)) continue;
        EXPECT_LT(relative_distance(moved(run.weights(), start), moved(file.f32(key), start)),
                  cls == "galore" ? 1e-2 : 1e-5)
            << key;
      }
    }
  }
}

TEST_P(Frugal, WholeDensityIsAdamW) {
  for (const char* split : {"columns", "rows", "randk", "randperm"}) {
    OptimizerRun run(GetParam(), {{"split", split}, {"density", "1"}, {"update_gap", "100"}, {"weight_decay", "0.1"}},
                     {matrix(60, 44, TN_ROLE_Q)}),
        adam(GetParam(), {{"weight_decay", "0.1"}}, {matrix(60, 44, TN_ROLE_HEAD)});
    for (int t = 1; t <= 6; ++t) run.step(0, normals(2640, t)), adam.step(0, normals(2640, t));
    EXPECT_EQ(run.weights(), adam.weights()) << split;
  }
}

TEST_P(Frugal, NoDensityIsASignStepOrNothing) {
  for (const char* split : {"columns", "rows", "randk", "svd", "random", "randperm"}) {
    OptimizerRun sign(GetParam(), {{"split", split}, {"density", "0"}}, {{{2, 2}, {1, 1, 1, 1}, TN_ROLE_V}}),
        frozen(GetParam(), {{"split", split}, {"density", "0"}, {"inactive_update_rule", "no"}},
               {{{2, 2}, {1, 1, 1, 1}, TN_ROLE_V}});
    for (int t = 0; t < 2; ++t)
      sign.step(0, {3, -1e-6f, 0, 7}, {.lr = 0.25}), frozen.step(0, {3, -1, 0, 7}, {.lr = 0.25});
    EXPECT_EQ(sign.weights(), (std::vector<float>{0.5f, 1.5f, 1, 0.5f})) << split;
    EXPECT_EQ(frozen.weights(), (std::vector<float>{1, 1, 1, 1})) << split;
  }
}

// Without a reset the states stay where they are, whatever they now belong to.
TEST_P(Frugal, StatesMayBeKept) {
  OptimizerRun kept(GetParam(),
                    {{"split", "randk"}, {"density", "1"}, {"update_gap", "2"}, {"reset_statistics", "false"}},
                    {matrix(40, 60)}),
      adam(GetParam(), {}, {matrix(40, 60, TN_ROLE_HEAD)});
  for (int t = 1; t <= 6; ++t) kept.step(0, normals(2400, t)), adam.step(0, normals(2400, t));
  EXPECT_EQ(kept.weights(), adam.weights());
}

// States start anew with every choice, so the first move of a chosen element is as long as the rate.
TEST_P(Frugal, ARestartForgets) {
  for (const std::string split : {"columns", "rows", "randk"}) {
    OptimizerRun run(GetParam(), {{"split", split}, {"update_gap", "3"}, {"inactive_update_rule", "no"}},
                     {matrix(40, 60)});
    for (int t = 1; t <= 3; ++t) run.step(0, normals(2400, t, 5));
    const std::vector<float> before = run.weights(), g = normals(2400, 4, 0.01f);
    run.step(0, g, {.lr = 0.1});
    const std::vector<bool> chosen = chosen_in(run, split, 40, 60);
    for (size_t i = 0; i < g.size(); ++i)
      EXPECT_NEAR(run.weights()[i] - before[i], !chosen[i] ? 0.0f : g[i] > 0 ? -0.1f : 0.1f, 1e-3) << split;
  }
}

// Four equal tensors under split=block, stepped together; which of them have states is seen from their bytes.
struct Tensors {
  OptimizerRun run;
  Tensors(const std::string& object, Hypers hypers) : run(object, with_split(std::move(hypers)), std::vector<Parameter>(4, matrix(6, 10))) {}
  static Hypers with_split(Hypers h) {
    h["split"] = "block";
    return h;
  }
  std::set<size_t> step(int64_t s, const std::vector<float>& g, double lr = 0.1) {
    run.plan(s);
    std::set<size_t> active;
    for (size_t i = 0; i < 4; ++i) {
      if (run.state_bytes(i) > 0) active.insert(i);
      EXPECT_EQ(run.state_bytes(i), active.count(i) ? 8 * g.size() : 0);
      EXPECT_EQ(run.step(i, g, {.lr = lr}), TN_OK) << run.host.error;
    }
    return active;
  }
};

TEST_P(Frugal, WholeTensorsTakeTurns) {
  using Sets = std::vector<std::set<size_t>>;
  for (const auto& [order, expected] : std::map<std::string, Sets>{{"ascending", {{0, 1}, {2, 3}, {0, 1}}}, {"descending", {{2, 3}, {0, 1}, {2, 3}}}, {"mirror", {{0, 3}, {1, 2}, {0, 3}}}}) {
    Tensors t(GetParam(), {{"density", "0.5"}, {"block_order", order}, {"update_gap", "2"}});
    Sets seen;
    for (int64_t s = 1; s <= 6; ++s) {
      const auto now = t.step(s, normals(60, static_cast<uint32_t>(s)));
      if (s % 2) seen.push_back(now);
      EXPECT_EQ(now, seen.back());
    }
    EXPECT_EQ(seen, expected) << order;
  }
  Tensors random(GetParam(), {{"density", "0.25"}, {"update_gap", "1"}});
  std::set<size_t> all;
  for (int64_t s = 1; s <= 30; ++s) {
    const auto now = random.step(s, normals(60, 1));
    EXPECT_EQ(now.size(), 1u);
    all.insert(now.begin(), now.end());
  }
  EXPECT_EQ(all.size(), 4u);
}

// The first move of a tensor whose turn begins is as long as the rate, also of one that goes on; the others take sign steps.
TEST_P(Frugal, ATurnBeginsAnew) {
  Tensors t(GetParam(), {{"density", "0.75"}, {"block_order", "ascending"}, {"update_gap", "3"}, {"inactive_lr_scale", "0.5"}});
  for (int64_t s = 1; s <= 3; ++s) t.step(s, normals(60, static_cast<uint32_t>(s), 5));
  std::vector<std::vector<float>> before;
  for (size_t i = 0; i < 4; ++i) before.push_back(t.run.weights(i));
  const std::vector<float> g = normals(60, 4, 0.01f);
  const std::set<size_t> active = t.step(4, g);
  EXPECT_EQ(active, (std::set<size_t>{3, 0, 1}));
  for (size_t i = 0; i < 4; ++i)
    for (size_t k = 0; k < g.size(); ++k)
      EXPECT_NEAR(t.run.weights(i)[k] - before[i][k], (g[k] > 0 ? -0.1f : 0.1f) * (active.count(i) ? 1.0f : 0.5f), 1e-3);
}

TEST_P(Frugal, AllTensorsAtOnceAreAdamW) {
  Tensors t(GetParam(), {{"density", "1"}, {"update_gap", "100"}, {"weight_decay", "0.1"}});
  OptimizerRun adam(GetParam(), {{"weight_decay", "0.1"}}, {matrix(6, 10, TN_ROLE_HEAD)});
  for (int64_t s = 1; s <= 6; ++s) t.step(s, normals(60, static_cast<uint32_t>(s)), 1e-3), adam.step(0, normals(60, static_cast<uint32_t>(s)), {.lr = 1e-3});
  EXPECT_EQ(t.run.weights(2), adam.weights());
}

TEST_P(Frugal, EveryColumnHasItsTurn) {
  std::set<int32_t> seen;
  OptimizerRun run(GetParam(), {{"update_gap", "1"}}, {matrix(4, 40)});
  for (int t = 1; t <= 60; ++t) {
    run.step(0, normals(160, t));
    const std::vector<bool> chosen = chosen_in(run, "columns", 4, 40);
    for (int32_t j = 0; j < 40; ++j)
      if (chosen[static_cast<size_t>(j)]) seen.insert(j);
  }
  EXPECT_EQ(seen.size(), 40u);
}

TEST_P(Frugal, RandomBasesAreOrthonormal) {
  OptimizerRun run(GetParam(), {{"split", "random"}, {"update_gap", "2"}}, {matrix(70, 40)});
  std::vector<float> last;
  for (int t = 1; t <= 3; ++t) {
    run.step(0, gradient(70, 40, 20, 0.8));
    const std::vector<float> p = run.state(0, "projector").floats();
    for (size_t a = 0; a < 10; ++a)
      for (size_t b = 0; b < 10; ++b) {
        double dot = 0;
        for (size_t i = 0; i < 40; ++i) dot += p[i * 10 + a] * p[i * 10 + b];
        EXPECT_NEAR(dot, a == b, 1e-5);
      }
    EXPECT_EQ(p == last, t == 2);
    last = p;
  }
}

TEST_P(Frugal, StatesHaveTheCardsSize) {
  const std::vector<Parameter> p = {matrix(300, 80), {{64}, normals(64, 1), TN_ROLE_NORM}};
  expect_state_bytes({GetParam(), {}, p}, {8 * 300 * 20 + 4 * 20, 8 * 64});
  expect_state_bytes({GetParam(), {{"split", "rows"}}, p}, {8 * 75 * 80 + 4 * 300, 8 * 64});
  expect_state_bytes({GetParam(), {{"split", "randk"}}, p}, {8 * 6000 + 128 * 24, 8 * 64});
  expect_state_bytes({GetParam(), {{"split", "svd"}}, p}, {8 * 300 * 20 + 4 * 80 * 20, 8 * 64});
}

TEST_P(Frugal, IsSound) {
  for (const char* split : {"columns", "rows", "randk", "svd", "random", "randperm"})
    expect_sound({GetParam(),
                  {{"split", split}, {"update_gap", "3"}},
                  {matrix(170, 100), matrix(40, 96), {{64}, normals(64, 1), TN_ROLE_NORM}}});
}

}  // namespace
}  // namespace tenon::sdk::testing
