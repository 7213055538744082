// Steps, checkpoints and refusals of a session.
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <tuple>

#include "core/error.h"
#include "hosts/trainer/engine/views.h"
#include "hosts/trainer/optim/schedule.h"
#include "hosts/trainer/random.h"
#include "hosts/trainer/run/checkpoint.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

std::map<std::string, std::vector<float>> weights(tiny::Run& run) {
  std::map<std::string, std::vector<float>> all;
  for (const Parameter* p : run.session->optimizer()->parameters()) all[p->name] = tiny::host_copy(*run.engine, p->value);
  return all;
}

void steps(tiny::Run& run, int64_t first, int64_t last) {
  for (int64_t s = first; s <= last; ++s) run.session->step(s, 6, {tiny::input()}, 1e-3);
}

class Resume : public testing::TestWithParam<const char*> {};

TEST_P(Resume, IsBitIdenticalToAnUninterruptedRun) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "mistral");
  for (const tn_dtype dtype : {kF32, kBF16}) {
    SessionOptions options;
    options.seed = 3;
    tiny::Run whole(model, tiny::mix(GetParam()), options, dtype);
    steps(whole, 1, 6);
    tiny::Run first(model, tiny::mix(GetParam()), options, dtype);
    steps(first, 1, 3);
    const RunIdentity identity{{{"optimizer", GetParam()}}, {}};
    const std::string output = folder / (dtype == kF32 ? "f32" : "bf16");
    std::filesystem::create_directories(output);
    save_checkpoint(output, 3, *first.session, identity, 2);
    tiny::Run second(model, tiny::mix(GetParam()), options, dtype);
    std::vector<std::string> warnings;
    ASSERT_EQ(load_checkpoint(newest_checkpoint(output).value(), *second.session, identity, warnings), 3);
    steps(second, 4, 6);
    EXPECT_EQ(weights(second), weights(whole));
    const RunIdentity other{{{"optimizer", "another"}}, {}};
    EXPECT_THROW(load_checkpoint(newest_checkpoint(output).value(), *second.session, other, warnings), Error);
  }
}

INSTANTIATE_TEST_SUITE_P(Optimizers, Resume,
                         testing::Values("sgd:momentum=0.9", "adamw", "adamw8:min_8bit_size=64", "galore:rank=8,update_proj_gap=2",
                                         "galore:rank=8,update_proj_gap=4,state_bits=8",
                                         "galore:rank=8,update_proj_gap=2,lr=0.01 for matrices, sgd:momentum=0.9 for norms, adamw for rest",
                                         "lisa:activated_layers=1,interval_steps=2,train_embed=false", "mkor:inv_freq=2", "flashdp:noise_multiplier=0.5"));

TEST(Session, UpdateInsideBackwardIsTheSameUpdate) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "qwen2");  // tied embeddings
  for (const char* optimizer : {"adamw", "galore:rank=8"}) {
    SessionOptions options;
    tiny::Run plain(model, tiny::mix(optimizer), options);
    options.fused_backward = true;
    tiny::Run fused(model, tiny::mix(optimizer), options);
    steps(plain, 1, 3), steps(fused, 1, 3);
    EXPECT_EQ(weights(plain), weights(fused)) << optimizer;
  }
}

TEST(Session, AccumulatedMicroBatchesAreOneBatch) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  const HostBatch both = tiny::input();
  std::vector<HostBatch> halves(2);
  for (int h = 0; h < 2; ++h) {
    halves[h].sequences = 1, halves[h].length = 14;
    halves[h].ids.assign(both.ids.begin() + h * 14, both.ids.begin() + (h + 1) * 14);
    halves[h].labels.assign(both.labels.begin() + h * 14, both.labels.begin() + (h + 1) * 14);
    halves[h].positions.assign(both.positions.begin(), both.positions.begin() + 14);
  }
  SessionOptions options;
  options.accumulate = 2;
  tiny::Run one(model, tiny::mix("sgd"), {}), two(model, tiny::mix("sgd"), options);
  const StepResult a = one.session->step(1, 1, {both}, 0.1), b = two.session->step(1, 1, halves, 0.1);
  EXPECT_NEAR(a.loss, b.loss, 1e-6 * a.loss);
  EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-5 * a.grad_norm);
}

TEST(Session, NotANumberSkipsTheStepAndChangesNothing) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix(), {});
  Parameter& embedding = run.session->model().parameters().front();
  std::vector<float> values = tiny::host_copy(*run.engine, embedding.value);
  values[static_cast<size_t>(tiny::input().ids[0]) * 32] = std::nanf("");
  run.engine->upload(values.data(), embedding.value);
  const auto before = weights(run);
  const StepResult r = run.session->step(1, 1, {tiny::input()}, 1e-3);
  EXPECT_TRUE(r.skipped);
  EXPECT_NE(r.note.find("NaN"), std::string::npos);
  for (const auto& [name, w] : weights(run)) {
    for (size_t i = 0; i < w.size(); ++i) {
      if (!std::isnan(w[i])) {
        ASSERT_EQ(w[i], before.at(name)[i]) << name;
      }
    }
  }
}

// A gradient of zeros would still decay the weights and follow the momentum.
TEST(Session, AStepWithNothingToPredictIsSkippedAndChangesNothing) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  HostBatch silent = tiny::input();
  std::fill(silent.labels.begin(), silent.labels.end(), -100);
  int n = 0;
  for (const char* optimizer : {"adamw:weight_decay=0.5", "sgd:momentum=0.9", "mezo"}) {
    for (const bool fused : {false, true}) {
      if (fused && std::string(optimizer) == "mezo") continue;  // has no backward
      SessionOptions options;
      options.fused_backward = fused;
      tiny::Run run(model, tiny::mix(optimizer), options), without(model, tiny::mix(optimizer), options);
      run.session->step(1, 3, {tiny::input()}, 1e-3), without.session->step(1, 3, {tiny::input()}, 1e-3);
      const auto before = weights(run);
      const StepResult r = run.session->step(2, 3, {silent}, 1e-3);
      EXPECT_TRUE(r.skipped);
      EXPECT_EQ(r.tokens, 0);
      EXPECT_TRUE(std::isnan(r.loss)) << "no loss was measured";
      EXPECT_NE(r.note.find("no token"), std::string::npos) << r.note;
      EXPECT_EQ(weights(run), before) << optimizer;

      const RunIdentity identity{{{"optimizer", optimizer}}, {}};
      const std::string output = folder / std::to_string(n++);
      std::filesystem::create_directories(output);
      save_checkpoint(output, 2, *run.session, identity, 1);
      tiny::Run resumed(model, tiny::mix(optimizer), options);
      std::vector<std::string> warnings;
      ASSERT_EQ(load_checkpoint(newest_checkpoint(output).value(), *resumed.session, identity, warnings), 2);
      for (tiny::Run* each : {&run, &resumed, &without}) each->session->step(3, 3, {tiny::input()}, 1e-3);
      EXPECT_EQ(weights(resumed), weights(run)) << optimizer;
      EXPECT_EQ(weights(without), weights(run)) << optimizer << ": the step has not been counted";
    }
  }
}

// A micro-batch without labels beside one with some is part of an ordinary step.
TEST(Session, AMicroBatchWithNothingToPredictAddsNothing) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  HostBatch silent = tiny::input();
  std::fill(silent.labels.begin(), silent.labels.end(), -100);
  SessionOptions options;
  options.accumulate = 2;
  tiny::Run one(model, tiny::mix("sgd"), {}), two(model, tiny::mix("sgd"), options);
  const StepResult a = one.session->step(1, 1, {tiny::input()}, 0.1), b = two.session->step(1, 1, {tiny::input(), silent}, 0.1);
  EXPECT_FALSE(b.skipped);
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_EQ(a.grad_norm, b.grad_norm);
}

// Weights in training are listed in a temporary for each call; their shapes must not be read from where that was.
TEST(Views, OutliveTheListThatTheyWereMadeOf) {
  const auto list = [] {
    return std::vector<Tensor>{Tensor({}, nullptr, {TN_CPU, 0}, kF32, {3, 5}), Tensor(), Tensor({}, nullptr, {TN_CPU, 0}, kBF16, {7})};
  };
  const Views views(list());
  std::vector<unsigned char> over(sizeof(Tensor) * 3, 0xee);  // takes the memory that the temporary gave back
  ASSERT_NE(over.data(), nullptr);
  const tn_tensor *a = views.data()[0], *c = views.data()[2];
  EXPECT_EQ(views.data()[1], nullptr);
  EXPECT_EQ(a->shape[0], 3);
  EXPECT_EQ(a->shape[1], 5);
  EXPECT_EQ(a->strides[0], 5);
  EXPECT_EQ(a->strides[1], 1);
  EXPECT_EQ(c->shape[0], 7);
  EXPECT_EQ(c->strides[0], 1);
}

TEST(Random, TurnsOfARunShareNoKeyAndOrdinaryOnesKeepTheirNumbers) {
  const tn_rng ordinary = turn_key(7, 3, 0x53415645, 1000, 5);
  EXPECT_EQ(ordinary.seed, 7u);
  EXPECT_EQ(ordinary.uid, 3u);
  EXPECT_EQ(ordinary.stream, 0x53415645u ^ (1000u * 4096 + 5));
  std::set<std::tuple<uint64_t, uint32_t, uint32_t>> keys;
  size_t turns = 0;
  for (const int64_t million : {0, 1, 2, 255, 256, 1 << 20})
    for (const int64_t step : {0, 1, 4095, 4096, (1 << 20) - 1})
      for (const int64_t micro : {0, 1, 4095, 4096, 8192, (1 << 20) - 1}) {
        const tn_rng k = turn_key(7, 3, 0, (million << 20) + step, micro);
        keys.emplace(k.seed, k.uid, k.stream), ++turns;
      }
  EXPECT_EQ(keys.size(), turns);
}

TEST(Session, LossFallsWithEveryKindOfMix) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  const std::vector<MixRequest> mixes = {tiny::mix("adamw"), tiny::mix("adamw8"), tiny::mix("galore:rank=8"), tiny::mix("sgd:momentum=0.9"),
                                         tiny::mix("adamw", {"lora:r=8,target_modules=all-linear"}),
                                         tiny::mix("adamw", {"lora:r=8,target_modules=all-linear"}, "nf4"),
                                         tiny::mix("galore:rank=4", {"lora:r=8,target_modules=all-linear"}, "blockwise-8bit"),
                                         tiny::mix("sgd", {"lora:r=8,target_modules=all-linear"}, "gguf-blocks:type=F16")};
  for (const MixRequest& m : mixes) {
    tiny::Run run(model, m, {});
    const double first = run.session->step(1, 12, {tiny::input()}, 1e-2).loss;
    double last = first;
    for (int64_t s = 2; s <= 12; ++s) last = run.session->step(s, 12, {tiny::input()}, 1e-2).loss;
    EXPECT_LT(last, first - 0.005) << m.optimizer << " " << m.quantizer;
  }
}

TEST(Mix, FullTuningOfQuantizedWeightsIsRefusedWithItsReason) {
  try {
    const Runtime runtime(tiny::catalog(), tiny::mix("adamw", {}, "nf4"));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), TN_E_CONFLICT);
    EXPECT_NE(std::string(e.what()).find("adapter"), std::string::npos) << e.what();
  }
}

TEST(Schedule, WarmsUpAndEndsWhereItShould) {
  Schedule s{ScheduleKind::kCosine, 1.0, 10, 110, 0.1, 0.1};
  EXPECT_DOUBLE_EQ(s.at(1), 0.1);
  EXPECT_DOUBLE_EQ(s.at(10), 1.0);
  EXPECT_NEAR(s.at(60), 0.55, 1e-12);
  EXPECT_NEAR(s.at(110), 0.1, 1e-12);
  EXPECT_DOUBLE_EQ(s.at(35), cosine_height(0.25, 0.1));
  s.kind = ScheduleKind::kLinear;
  EXPECT_NEAR(s.at(60), 0.55, 1e-12);
  s.kind = ScheduleKind::kWsd;
  EXPECT_DOUBLE_EQ(s.at(99), 1.0);
  EXPECT_NEAR(s.at(110), 0.1, 1e-12);
  s.kind = ScheduleKind::kConstant;
  EXPECT_DOUBLE_EQ(s.at(110), 1.0);
}

}  // namespace
}  // namespace tenon::trainer
