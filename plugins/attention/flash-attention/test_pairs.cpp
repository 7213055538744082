// bf16 on the CPU, whose products take keys and rows in pairs where it has AVX512_BF16: odd borders, widths of all
// kinds, threads.
#include "sdk/testing/attention.h"

namespace tenon::flash::testing {

using namespace sdk::testing::attention;
namespace {

std::vector<std::string> cpu_objects() {
  std::vector<std::string> all = sdk::testing::plugin_objects();
  std::erase_if(all, sdk::testing::is_emulated);
  return all;
}

class Pairs : public Objects {};
INSTANTIATE_TEST_SUITE_P(Cpu, Pairs, ::testing::ValuesIn(cpu_objects()),
                         [](const auto& info) { return sdk::testing::object_label(info.param); });

constexpr uint32_t kResults[] = {TN_PORT_O, TN_PORT_LSE, TN_PORT_DQ, TN_PORT_DK, TN_PORT_DV};

TEST_P(Pairs, OddSizesAndAnyWidthsMatchTheDenseFormula) {
  for (const auto& [d, e] : {std::pair{64, 64}, {48, 80}, {16, 128}, {40, 64}}) {
    SCOPED_TRACE(std::to_string(d) + " and " + std::to_string(e));
    const Case c{.batch = 2,
                 .t_q = 201,
                 .t_k = 263,
                 .heads = 3,
                 .kv_heads = 1,
                 .d = d,
                 .e = e,
                 .mask = {causal(), window(91, 0), sink(5)},
                 .q_pos = 57,
                 .dtype = sdk::kBF16,
                 .sink_logit = true,
                 .d_lse = true};
    Runner run(GetParam(), c);
    expect_forward(run, 0x1p-7);
    expect_backward(run, c, 0x1p-6);
  }
}

// Rows of a cache that nobody may see yet hold anything. Here they share pairs and vectors with rows that are seen.
TEST_P(Pairs, HiddenKeysNeverReachResults) {
  constexpr int64_t kFirst = 7, kKeys = 163, kRows = 210;
  const Case c{.t_q = 161,
               .t_k = kRows,
               .heads = 2,
               .kv_heads = 1,
               .mask = {causal()},
               .segments = {{0, 161, kFirst, kKeys, 2, 0}},
               .dtype = sdk::kBF16};
  std::map<uint32_t, std::vector<uint8_t>> clean;
  for (const float hidden : {0.0f, NAN}) {
    Runner run(GetParam(), c);
    for (const uint32_t port : {TN_PORT_K, TN_PORT_V}) {
      auto x = run.values(port);
      std::fill(x.begin(), x.begin() + kFirst * 64, hidden);
      std::fill(x.begin() + (kFirst + kKeys) * 64, x.end(), hidden);
      run.bindings.at(port).assign(x);
    }
    ASSERT_EQ(run.forward(), TN_OK) << run.error();
    ASSERT_EQ(run.backward(), TN_OK) << run.error();
    for (const uint32_t port : kResults)
      EXPECT_EQ(clean.emplace(port, run.bindings.at(port).raw()).first->second, run.bindings.at(port).raw())
          << "port " << port;
  }
}

TEST_P(Pairs, ResultsAreTheSameBitsForAnyNumberOfThreads) {
  const Case c{.t_q = 501, .t_k = 501, .heads = 6, .kv_heads = 2, .mask = {causal()}, .dtype = sdk::kBF16};
  std::map<uint32_t, std::vector<uint8_t>> first;
  for (const int threads : {1, 2, 5}) {
    Runner run(GetParam(), c);
    run.threads = threads;
    ASSERT_EQ(run.forward(), TN_OK) << run.error();
    ASSERT_EQ(run.backward(), TN_OK) << run.error();
    for (const uint32_t port : kResults)
      EXPECT_EQ(first.emplace(port, run.bindings.at(port).raw()).first->second, run.bindings.at(port).raw())
          << threads << " threads";
  }
}

}  // namespace
}  // namespace tenon::flash::testing
