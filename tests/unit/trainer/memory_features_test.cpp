// The trainer's memory features change no number, and the planner's forecast is the measured peak.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "hosts/trainer/schedule/parse.h"
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
    memory.tiled_mlp = true;
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

// Tiles that do not divide the rows, some of which hold ignored labels only.
TEST(TiledLoss, EqualsTheDenseLossForEveryTile) {
  const tiny::Folder folder;
  for (const char* model : {"llama", "qwen2"}) {  // an own head; a tied one, whose weight also gets the embedding's gradient
    tiny::Run run(tiny::model_folder(folder, model), tiny::mix(), {});
    HostBatch batch = tiny::input();
    for (size_t r = 4; r < 13; ++r) batch.labels[r] = -1;
    Gradients plain;
    const double loss = run.gradients(batch, {}, plain);
    for (int64_t rows = 1; rows <= 29; ++rows) {
      MemoryOptions memory;
      memory.loss_tile_bytes = 96 * 4 * rows;
      Gradients tiled;
      EXPECT_NEAR(run.gradients(batch, memory, tiled), loss, 1e-6 * loss) << rows;
      EXPECT_LT(relative_distance(plain, tiled), 1e-6) << rows;
    }
  }
}

TEST(TiledLoss, OfNothingIsNothing) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix(), {});
  HostBatch batch = tiny::input();
  std::fill(batch.labels.begin(), batch.labels.end(), -1);
  for (const int64_t rows : {28, 5}) {
    MemoryOptions memory;
    memory.loss_tile_bytes = 96 * 4 * rows;
    LinearCall call;
    EXPECT_EQ(run.session->model().train(batch, call, memory, 1, true, [](Parameter&) {}), 0);
    for (const Parameter* p : run.session->optimizer()->parameters())
      for (const float g : tiny::host_copy(*run.engine, p->gradient)) EXPECT_EQ(g, 0) << p->name;
    run.session->optimizer()->drop_gradients();
  }
  EXPECT_TRUE(run.session->step(1, 1, {batch}, 1e-3).skipped);
}

// 14 and 28 rows in tiles of 32 columns' worth: less than one tile, and with 45 rows of three sequences one and a rest.
TEST(TiledMlp, EqualsTheWholeForOneSequenceAndForThree) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix(), {});
  for (const int64_t sequences : {1, 3}) {
    const HostBatch batch = shape_batch(sequences, sequences == 1 ? 33 : 15, 96);
    Gradients plain, tiled;
    MemoryOptions memory;
    memory.tiled_mlp = true;
    const double loss = run.gradients(batch, {}, plain);
    EXPECT_NEAR(run.gradients(batch, memory, tiled), loss, 1e-6 * loss);
    EXPECT_LT(relative_distance(plain, tiled), 1e-6);
  }
}

// What is alive between forward and backward, against the sum of what each policy keeps: a row of a block has its input, attention's output and
// log-sum-exps, q, k and v, the middle, gate and up.
TEST(GradCheckpoint, KeepsTheBytesOfTheFormula) {
  const Runtime runtime(tiny::catalog(), tiny::mix());
  const ModelSource source = ModelSource::open("preset:60m", 320);
  const ModelConfig& c = source.config();
  constexpr int64_t kRows = 512;
  struct Case {
    const char* policy;
    int64_t numbers;  // f32, of a row and block
  };
  const int64_t n = c.hidden, kv = c.kv_width(), f = c.intermediate, h = c.heads;
  for (const auto& [policy, numbers] : {Case{"block", n}, Case{"flash-cut", 2 * n + h}, Case{"keep:qkv", 2 * n + 2 * kv + 1}, Case{"keep:mlp+middle", 2 * n + 2 * f + 1},
                                        Case{"none", 4 * n + 2 * kv + 2 * f + h + 2}}) {
    const auto engine = runtime.engine(kF32, 0, true);
    const auto set = runtime.instantiate();
    SessionOptions options;
    options.sequence = kRows;
    Session session(*engine, source, set->techniques, options);
    MemoryOptions memory;
    parse_checkpointing(policy, memory);
    uint64_t alive = 0;
    session.model().train(shape_batch(1, kRows, 320), {}, memory, 1, true, [&](Parameter&) {
      if (!alive) alive = engine->memory().use().live[static_cast<size_t>(Category::kActivations)];
    });
    session.optimizer()->drop_gradients();
    const double formula = 4.0 * static_cast<double>(numbers * kRows * c.layers), passing = 8.0 * static_cast<double>(n * kRows);  // the last block's output and its gradient
    EXPECT_NEAR(static_cast<double>(alive), formula + passing, 0.05 * formula) << policy;
  }
}

// Parameters are the same bits as of the plain loop, and gradients of one tensor at a time are alive.
TEST(FusedBackward, IsThePlainLoopWithTheMemoryOfOneGradient) {
  const tiny::Folder folder;
  for (const char* model : {"llama", "qwen2"})  // qwen2: a tied head, complete only after the embedding
    for (const char* optimizer : {"adamw", "sgd:momentum=0.9"}) {
      SessionOptions plain, fused;
      fused.fused_backward = true;
      tiny::Run a(tiny::model_folder(folder, model), tiny::mix(optimizer), plain), b(tiny::model_folder(folder, model), tiny::mix(optimizer), fused);
      for (int64_t step = 1; step <= 4; ++step)
        EXPECT_EQ(a.session->step(step, 4, {tiny::input()}, 1e-3).loss, b.session->step(step, 4, {tiny::input()}, 1e-3).loss);
      int64_t all = 0, largest = 0;
      for (size_t i = 0; i < a.session->optimizer()->parameters().size(); ++i) {
        const Parameter &p = *a.session->optimizer()->parameters()[i], &q = *b.session->optimizer()->parameters()[i];
        EXPECT_EQ(tiny::host_copy(*a.engine, p.value), tiny::host_copy(*b.engine, q.value)) << p.name;
        all += p.value.bytes(), largest = std::max(largest, p.value.bytes());
      }
      const auto gradients = [](tiny::Run& run) { return static_cast<int64_t>(run.engine->memory().use().peak[static_cast<size_t>(Category::kGradients)]); };
      EXPECT_GE(gradients(a), all);
      // The gradients of one half of a block, or of the head beside the norm, are together for a moment.
      EXPECT_LT(gradients(b), all / 2 + largest);
    }
}

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
  options.memory.tiled_mlp = m.tiles;
  if (m.tiles) options.memory.loss_tile_bytes = 96 * 4 * 5;
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
