// Optimizers that choose what trains: gradients, states and the forecast follow the choice.
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

constexpr const char* kLisa = "lisa:activated_layers=1,interval_steps=2,train_embed=false,train_head=false";

TEST(Freezing, FrozenBlocksHaveNeitherGradientNorState) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix(kLisa), {});
  for (int64_t step = 1; step <= 6; ++step) {
    ASSERT_TRUE(step == 1 || !run.session->optimizer()->parameters().empty());
    run.session->plan(step, 6);
    std::map<std::string, std::vector<float>> before;
    for (const Parameter* p : run.session->optimizer()->parameters()) before[p->name] = tiny::host_copy(*run.engine, p->value);
    std::map<std::string, std::vector<float>> gradients;
    run.session->model().train(tiny::input(), LinearCall{}, {}, 1.0 / 26, true, [](Parameter&) {});
    for (const Parameter* p : run.session->optimizer()->parameters()) {
      EXPECT_EQ(static_cast<bool>(p->gradient), p->trainable) << p->name;
      EXPECT_EQ(p->states.empty(), !p->trainable) << p->name;
    }
    run.session->optimizer()->drop_gradients();
    run.session->step(step, 6, {tiny::input()}, 1e-2);
    for (const Parameter* p : run.session->optimizer()->parameters())
      EXPECT_EQ(tiny::host_copy(*run.engine, p->value) != before[p->name], p->trainable) << p->name;
  }
}

TEST(Freezing, TheForecastKnowsEveryDraw) {
  const tiny::Folder folder;
  for (const bool master : {false, true}) {
    SessionOptions options;
    options.sequence = 14, options.storage = master ? kBF16 : kF32, options.update = master ? WeightUpdate::kMaster : WeightUpdate::kStochastic;
    const tn_dtype compute = options.storage;
    tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix(kLisa), options, compute);
    for (int64_t step = 1; step <= 12; ++step) run.session->step(step, 12, {tiny::input()}, 1e-3);
    EXPECT_EQ(run.engine->memory().use().total_peak, plan_run(run.runtime, run.source, options, {2, 14, false, 12}, compute).total_peak);
  }
}

TEST(Freezing, AnInnerOptimizersRelationsHoldToo) {
  EXPECT_THROW(Runtime(tiny::catalog(), tiny::mix("lisa:inner=\"adamv\"")), Error);
  const Runtime runtime(tiny::catalog(), tiny::mix("lisa:inner=\"lisa:inner=\\\"sgd\\\"\""));
  EXPECT_EQ(runtime.plugin_versions().count("sgd"), 1u);
}

}  // namespace
}  // namespace tenon::trainer
