// Agreement with the golden vectors: the definition in f64, checked where they were made against PyTorch's attention.
#include "sdk/testing/attention.h"
#include "tests/reference/golden.h"

namespace tenon::flash::testing {

using namespace sdk::testing::attention;
namespace {

class Golden : public Objects {};

TEST_P(Golden, AgreesWithTheGoldenVectors) {
  const golden::File file("attention/attention.safetensors");
  const auto settings = file.setting("settings");
  ASSERT_GE(settings.size(), 10u);
  for (const auto& [name, setting] : settings.items()) {
    SCOPED_TRACE(name);
    const auto q = file.shape(name + ".q"), k = file.shape(name + ".k"), v = file.shape(name + ".v");
    const auto q_bounds = file.i32(name + ".offsets_q"), k_bounds = file.i32(name + ".offsets_k");
    Case c{.t_q = q[0],
           .t_k = k[0],
           .heads = q[1],
           .kv_heads = k[1],
           .d = q[2],
           .e = v[2],
           .scale = setting["scale"],
           .softcap = setting["softcap"],
           .sink_logit = file.has(name + ".sink")};
    if (setting["causal"]) c.mask.push_back(causal());
    if (const int64_t w = setting["window"]; w > 0) c.mask.push_back(window(w - 1, 0));
    for (size_t s = 0; s + 1 < q_bounds.size(); ++s) {
      const int64_t t_q = q_bounds[s + 1] - q_bounds[s], t_k = k_bounds[s + 1] - k_bounds[s];
      c.segments.push_back(
          {q_bounds[s], t_q, k_bounds[s], t_k, t_k - t_q, 0});  // the last query is where the last key is
    }
    Runner run(GetParam(), c);
    const std::pair<uint32_t, const char*> inputs[] = {
        {TN_PORT_Q, ".q"}, {TN_PORT_K, ".k"}, {TN_PORT_V, ".v"}, {TN_PORT_DO, ".do"}};
    for (const auto& [port, part] : inputs) run.bindings.at(port).assign(file.f32(name + part));
    if (c.sink_logit) run.bindings.at(TN_PORT_SINK_LOGIT).assign(file.f32(name + ".sink"));
    ASSERT_EQ(run.forward(), TN_OK) << run.error();
    ASSERT_EQ(run.backward(), TN_OK) << run.error();

    // A score of 10⁴ in f32 is off by 10⁻³, and so is its weight, relatively; the gradients cancel to the differences
    // of such weights.
    const bool large = name == "large_scores";
    const double tolerance = large ? 1e-3 : 1e-5, gradient_tolerance = large ? 5e-2 : 1e-4;
    EXPECT_LT(error(run.values(TN_PORT_O), widen(file.f32(name + ".o"))), tolerance);
    const auto lse = file.f32(name + ".lse");  // [T, Hq]
    std::vector<double> transposed(lse.size());
    for (int64_t t = 0; t < c.t_q; ++t)
      for (int64_t h = 0; h < c.heads; ++h) transposed[h * c.t_q + t] = lse[t * c.heads + h];
    EXPECT_LT(error(run.values(TN_PORT_LSE), transposed), 1e-5);
    const std::pair<uint32_t, const char*> gradients[] = {
        {TN_PORT_DQ, ".dq"}, {TN_PORT_DK, ".dk"}, {TN_PORT_DV, ".dv"}, {TN_PORT_D_SINK_LOGIT, ".dsink"}};
    for (const auto& [port, part] : gradients) {
      if (!file.has(name + part)) continue;
      EXPECT_LT(error(run.values(port), widen(file.f32(name + part))), gradient_tolerance) << part;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Golden, ::testing::ValuesIn(sdk::testing::plugin_objects()),
                         [](const auto& info) { return sdk::testing::object_label(info.param); });

}  // namespace
}  // namespace tenon::flash::testing
