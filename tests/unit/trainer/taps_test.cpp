// What optimizers see and replace inside backward: means of a linear's activations, and its weight-gradient product.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

std::map<std::string, std::vector<float>> weights(tiny::Run& run) {
  std::map<std::string, std::vector<float>> all;
  for (Parameter& p : run.session->model().parameters()) all[p.name] = tiny::host_copy(*run.engine, p.value);
  return all;
}

// After one tap R⁻¹ = (I − c x x^T) / γ with x the mean input, here of the first projection: the normalized embeddings.
TEST(Taps, MeansAreThoseOfTheActivations) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix("mkor:threshold=1e9,half=false,inner=\"sgd\""), {});
  const auto w = weights(run);
  const std::vector<float>&table = w.at("model.embed_tokens.weight"), &gain = w.at("model.layers.0.input_layernorm.weight");
  const size_t n = gain.size();
  std::vector<double> mean(n);
  const HostBatch batch = tiny::input();
  for (const int32_t id : batch.ids) {
    double square = 0;
    for (size_t i = 0; i < n; ++i) square += std::pow(table[id * n + i], 2) / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) mean[i] += table[id * n + i] / std::sqrt(square + run.source.config().norm_eps) * gain[i] / 28;
  }
  run.session->step(1, 1, {batch}, 0);
  double length = 0;
  for (const double x : mean) length += x * x;
  const double c = 0.05 / (0.95 + 0.05 * length);
  for (const Parameter* p : run.session->optimizer()->parameters()) {
    EXPECT_FALSE(p->tap_x) << "a tap outlived its step";
    if (p->name != "model.layers.0.self_attn.q_proj.weight") continue;
    const std::vector<float> inverse = tiny::host_copy(*run.engine, p->states[1]);
    for (size_t i = 0; i < n; ++i)
      for (size_t k = 0; k < n; ++k) EXPECT_NEAR(inverse[i * n + k], ((i == k) - c * mean[i] * mean[k]) / 0.95, 2e-5);
  }
}

TEST(Taps, MicroBatchesAreOneMean) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  SessionOptions options;
  options.accumulate = 2;
  tiny::Run one(model, tiny::mix("mkor"), {}), two(model, tiny::mix("mkor"), options);
  HostBatch halves[2];
  const HostBatch both = tiny::input();
  for (int h = 0; h < 2; ++h) {
    halves[h].sequences = 1, halves[h].length = 14;
    halves[h].ids.assign(both.ids.begin() + h * 14, both.ids.begin() + (h + 1) * 14);
    halves[h].labels.assign(both.labels.begin() + h * 14, both.labels.begin() + (h + 1) * 14);
    halves[h].positions.assign(both.positions.begin(), both.positions.begin() + 14);
  }
  one.session->step(1, 1, {both}, 1e-2), two.session->step(1, 1, {halves[0], halves[1]}, 1e-2);
  const auto a = weights(one), b = weights(two);
  for (const auto& [name, w] : a)
    for (size_t i = 0; i < w.size(); ++i) EXPECT_NEAR(w[i], b.at(name)[i], 1e-5) << name;
}

TEST(OwnProduct, WithoutBoundAndNoiseItIsTheOrdinaryGradient) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  // 22 predicted tokens: a sum of nats over 22 is the mean.
  ASSERT_EQ(tiny::predicted(tiny::input()), 22);
  tiny::Run plain(model, tiny::mix("sgd"), {}), dp(model, tiny::mix("flashdp:max_grad_norm=1e12,noise_multiplier=0,expected_batch=22,inner=\"sgd\""), {});
  const auto start = weights(plain);
  plain.session->step(1, 1, {tiny::input()}, 1), dp.session->step(1, 1, {tiny::input()}, 1);
  const auto a = weights(plain), b = weights(dp);
  for (const auto& [name, w] : a) {
    const bool linear = name.find("proj") != std::string::npos || name == "lm_head.weight";
    for (size_t i = 0; i < w.size(); ++i) EXPECT_NEAR(b.at(name)[i], linear ? w[i] : start.at(name)[i], 2e-6) << name;
  }
}

TEST(OwnProduct, BoundsWhatASequenceMayDo) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix("flashdp:max_grad_norm=0.5,noise_multiplier=0,expected_batch=1,inner=\"sgd\""), {});
  const auto start = weights(run);
  run.session->step(1, 1, {tiny::input()}, 1);
  double square = 0;
  for (const auto& [name, w] : weights(run))
    for (size_t i = 0; i < w.size(); ++i) square += std::pow(w[i] - start.at(name)[i], 2);
  EXPECT_LE(std::sqrt(square), 2 * 0.5 * 1.001);  // two sequences
  EXPECT_GT(std::sqrt(square), 0.5);
}

// Workspaces of products follow from types and lengths by no rule, so one short sequence in bf16 is a case of its own.
TEST(OwnProduct, TakesAnyTypeAndLength) {
  for (const tn_dtype type : {kF32, kBF16})
    for (const int64_t length : {int64_t{64}, int64_t{17}, kLossRows + 1}) {
      SessionOptions options;
      options.sequence = length, options.storage = type;
      tiny::Run run("preset:9m", tiny::mix("flashdp"), options, type);
      EXPECT_TRUE(std::isfinite(run.session->step(1, 1, {shape_batch(1, length, 320)}, 1e-3).loss));
      EXPECT_EQ(run.engine->memory().use().total_peak, plan_run(run.runtime, run.source, options, {1, length, false, 1}, type).total_peak);
    }
}

TEST(OwnProduct, IsRefusedWhereSamplesWouldBeCutOrLeaveUnclipped) {
  for (const char* tag : {"run:tiled-mlp", "run:tiled-loss", "run:fused-backward", "run:clip-global-norm"}) {
    MixRequest m = tiny::mix("flashdp");
    m.run_tags = {tag};
    EXPECT_THROW(Runtime(tiny::catalog(), m), Error) << tag;
  }
  for (const char* optimizer : {"flashdp for matrices, adamw for rest", "lisa:inner=\"flashdp\"", "lisa:inner=\"mezo\"", "lisa:inner=\"mkor\""})
    EXPECT_THROW(Runtime(tiny::catalog(), tiny::mix(optimizer)), Error) << optimizer;
  EXPECT_THROW(Runtime(tiny::catalog(), tiny::mix("mkor", {"lora"})), Error);
}

class Foreseen : public testing::TestWithParam<const char*> {};
TEST_P(Foreseen, ThePlanIsTheMeasuredPeakAndTheLossFalls) {
  const tiny::Folder folder;
  SessionOptions options;
  options.sequence = 14;
  tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix(GetParam()), options);
  const double first = run.session->step(1, 12, {tiny::input()}, 1e-2).loss;
  double last = first;
  for (int64_t s = 2; s <= 12; ++s) last = run.session->step(s, 12, {tiny::input()}, 1e-2).loss;
  EXPECT_LT(last, first - 0.005);
  EXPECT_EQ(run.engine->memory().use().total_peak, plan_run(run.runtime, run.source, options, {2, 14, false, 12}, kF32).total_peak);
}
INSTANTIATE_TEST_SUITE_P(Mixes, Foreseen,
                         testing::Values("mkor:inv_freq=2,inner=\"adamw\"", "flashdp:noise_multiplier=0.1,max_grad_norm=10", "lisa:interval_steps=3"));

}  // namespace
}  // namespace tenon::trainer
