// The trainer's memory features change no number, and the planner's forecast is the measured peak.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

using Gradients = std::map<std::string, std::vector<float>>;

double relative_distance(const Gradients& a, const Gradients& b) {
  double difference = 0, norm = 0;
  for (const auto& [name, g] : a)
    for (size_t i = 0; i < g.size(); ++i) difference += std::pow(g[i] - b.at(name)[i], 2), norm += std::pow(g[i], 2);
  return std::sqrt(difference / norm);
}

class MemoryFeatures : public testing::TestWithParam<std::vector<std::string>> {};  // adapters of the mix

TEST_P(MemoryFeatures, RecomputationIsBitIdenticalAndTilesAreEqualWithinRounding) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix("adamw", GetParam()), {});
  Gradients plain;
  const double loss = run.gradients(tiny::input(), {}, plain);
  for (const Checkpointing policy : {Checkpointing::kFlashCut, Checkpointing::kBlock}) {
    MemoryOptions memory;
    memory.checkpointing = policy;
    Gradients again;
    EXPECT_EQ(run.gradients(tiny::input(), memory, again), loss);
    EXPECT_EQ(again, plain);
  }
  for (const bool checkpoint : {false, true}) {
    MemoryOptions memory;
    memory.tiled_loss = memory.tiled_mlp = true;
    memory.loss_tile_bytes = 96 * 4 * 5;  // five rows: does not divide 28
    if (checkpoint) memory.checkpointing = Checkpointing::kFlashCut;
    Gradients tiled;
    EXPECT_NEAR(run.gradients(tiny::input(), memory, tiled), loss, 1e-6 * loss);
    EXPECT_LT(relative_distance(plain, tiled), 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Mixes, MemoryFeatures,
                         testing::Values(std::vector<std::string>{}, std::vector<std::string>{"lora:r=4,target_modules=all-linear,lora_dropout=0.2"},
                                         std::vector<std::string>{"lora:r=4,target_modules=all-linear", "lora:r=2,target_modules=q_proj+down_proj"}));

struct PlannedMix {
  const char *name, *model, *optimizer;
  std::vector<std::string> adapters;
  const char* quantizer;
  bool bf16, checkpoint, tiles, fused;
  int64_t accumulate;
};

class Planner : public testing::TestWithParam<PlannedMix> {};

TEST_P(Planner, ForecastIsTheMeasuredPeak) {
  const PlannedMix& m = GetParam();
  const tiny::Folder folder;
  SessionOptions options;
  options.accumulate = m.accumulate, options.fused_backward = m.fused, options.sequence = 14, options.storage = m.bf16 ? kBF16 : kF32;
  if (m.checkpoint) options.memory.checkpointing = Checkpointing::kFlashCut;
  options.memory.tiled_loss = options.memory.tiled_mlp = m.tiles;
  const tn_dtype compute = m.bf16 ? kBF16 : kF32;
  tiny::Run run(tiny::model_folder(folder, m.model), tiny::mix(m.optimizer, m.adapters, m.quantizer), options, compute);
  const MemoryUse planned = plan_run(run.runtime, run.source, options, {2, 14, true}, compute);
  for (int64_t step = 1; step <= 3; ++step) run.session->step(step, 3, std::vector<HostBatch>(m.accumulate, tiny::input()), 1e-3);
  const HostBatch evaluated = shape_batch(evaluation_rows(14), 14, 96);
  run.session->model().evaluate(evaluated);
  const MemoryUse measured = run.engine->memory().use();
  EXPECT_NEAR(static_cast<double>(planned.total_peak), static_cast<double>(measured.total_peak), 0.03 * static_cast<double>(measured.total_peak));
  EXPECT_GT(measured.total_peak, 0u);
}

INSTANTIATE_TEST_SUITE_P(
    Mixes, Planner,
    testing::Values(PlannedMix{"full", "llama", "adamw", {}, "", false, false, false, false, 1},
                    PlannedMix{"sgd", "llama2", "sgd:momentum=0.9", {}, "", false, false, false, false, 1},
                    PlannedMix{"bf16", "mistral", "adamw", {}, "", true, false, false, false, 1},
                    PlannedMix{"accumulate", "qwen2", "adamw", {}, "", true, false, false, false, 3},
                    PlannedMix{"checkpoint", "qwen3", "adamw", {}, "", false, true, false, false, 1},
                    PlannedMix{"tiles", "llama", "adamw", {}, "", false, false, true, false, 1},
                    PlannedMix{"fused", "llama", "galore:rank=8", {}, "", false, true, true, true, 1},
                    PlannedMix{"galore8", "mistral", "galore:rank=8,state_bits=8", {}, "", true, false, false, true, 1},
                    PlannedMix{"adamw8", "llama", "adamw8", {}, "", false, false, false, false, 1},
                    PlannedMix{"lora", "llama", "adamw", {"lora:target_modules=all-linear"}, "", false, false, false, false, 1},
                    PlannedMix{"qlora", "llama", "adamw", {"lora:r=4,target_modules=all-linear"}, "nf4:double_quant=true", true, true, true, false, 2}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(MemoryLimit, IsRefusedWhileAllocating) {
  const tiny::Folder folder;
  const Runtime runtime(tiny::catalog(), tiny::mix());
  const ModelSource source = ModelSource::open(tiny::model_folder(folder, "llama"), 320);
  const auto engine = runtime.engine(kF32, 10000, false);
  const auto set = runtime.instantiate();
  SessionOptions options;
  options.sequence = 14;
  try {
    const Session session(*engine, source, set->techniques, options);
    FAIL() << "a limit of 10,000 bytes was passed over";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), TN_E_MEMORY);
  }
  EXPECT_EQ(engine->memory().use().total_live, 0u);
}

}  // namespace
}  // namespace tenon::trainer
