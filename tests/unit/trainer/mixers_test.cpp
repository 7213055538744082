// Mixers that own their projections, in the trainer: training, memory, files, decoding, and what they mix with.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "hosts/trainer/run/checkpoint.h"
#include "hosts/trainer/run/export.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

// Chunks and a window that sequences of 14 tokens fill more than once.
constexpr char kLact[] = "lact:chunk=4,window=6,fw_heads=2";

MixRequest mixing(const std::string& attention, const std::vector<std::string>& adapters = {}, const std::string& quantizer = "") {
  MixRequest r = tiny::mix("adamw", adapters, quantizer);
  r.attention = attention;
  return r;
}

std::map<std::string, std::vector<float>> weights(tiny::Run& run) {
  std::map<std::string, std::vector<float>> all;
  for (const Parameter& p : run.session->model().parameters())
    if (p.value) all[p.name] = tiny::host_copy(*run.engine, p.value);
  return all;
}

double step(tiny::Run& run, int64_t number, double lr = 1e-2) { return run.session->step(number, 12, {tiny::input()}, lr).loss; }

class Mixers : public testing::TestWithParam<const char*> {
 protected:
  tiny::Folder folder_;
  std::string model_ = tiny::model_folder(folder_, "llama");
};

TEST_P(Mixers, LossFallsWithAndWithoutAdapterAndQuantizer) {
  for (const auto& [adapter, quantizer] : {std::pair("", ""), {"lora:r=8,target_modules=all-linear", ""}, {"lora:r=8,target_modules=all-linear", "nf4"}, {"compacter:hypercomplex_division=2,reduction_factor=4", ""}})
    for (const tn_dtype dtype : {kF32, kBF16}) {
      tiny::Run run(model_, mixing(GetParam(), *adapter ? std::vector<std::string>{adapter} : std::vector<std::string>{}, quantizer), {}, dtype);
      const double first = step(run, 1);
      double last = first;
      for (int64_t s = 2; s <= 12; ++s) last = step(run, s);
      EXPECT_LT(last, first) << adapter << " " << quantizer;
    }
}

TEST_P(Mixers, RecomputationIsBitIdentical) {
  tiny::Run run(model_, mixing(GetParam()), {});
  std::map<std::string, std::vector<float>> kept;
  const double loss = run.gradients(tiny::input(), {}, kept);
  for (const Checkpointing c : {Checkpointing::kFlashCut, Checkpointing::kBlock}) {
    std::map<std::string, std::vector<float>> again;
    MemoryOptions memory;
    memory.checkpointing = c;
    EXPECT_EQ(run.gradients(tiny::input(), memory, again), loss);
    EXPECT_EQ(again, kept);
  }
}

TEST_P(Mixers, PackedDocumentsAreSequencesOfTheirOwn) {
  tiny::Run run(model_, mixing(GetParam()), {});
  const HostBatch two = tiny::input();
  HostBatch packed = two;
  packed.sequences = 1, packed.length = 28;
  packed.segments = {{0, 14}, {14, 14}};
  std::vector<double> a, b;
  run.session->model().evaluate(two, &a), run.session->model().evaluate(packed, &b);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5 * std::abs(a[i]) + 1e-6);
}

TEST_P(Mixers, ForecastIsTheMeasuredPeak) {
  for (const Checkpointing c : {Checkpointing::kNone, Checkpointing::kBlock})
    for (const tn_dtype dtype : {kF32, kBF16}) {
      SessionOptions options;
      options.sequence = 14, options.storage = dtype, options.memory.checkpointing = c;
      tiny::Run run(model_, mixing(GetParam()), options, dtype);
      step(run, 1);
      EXPECT_EQ(run.engine->memory().use().total_peak, plan_run(run.runtime, run.source, options, {2, 14, false, 1}, dtype).total_peak);
    }
}

TEST_P(Mixers, ResumingIsBitIdentical) {
  const auto run = [&] { return std::make_unique<tiny::Run>(model_, mixing(GetParam()), SessionOptions{}); };
  const auto whole = run(), first = run(), second = run();
  for (int64_t s = 1; s <= 4; ++s) step(*whole, s);
  for (int64_t s = 1; s <= 2; ++s) step(*first, s);
  const RunIdentity identity{{{"attention", GetParam()}}, {}};
  const std::string output = folder_ / "run";
  std::filesystem::create_directories(output);
  save_checkpoint(output, 2, *first->session, identity, 2);
  std::vector<std::string> warnings;
  ASSERT_EQ(load_checkpoint(newest_checkpoint(output).value(), *second->session, identity, warnings), 2);
  for (int64_t s = 3; s <= 4; ++s) step(*second, s);
  EXPECT_EQ(weights(*second), weights(*whole));
}

// A written model holds the mixer's weights and none of those that it replaces; loaded again it is the same model.
TEST_P(Mixers, WrittenModelsComeBack) {
  tiny::Run run(model_, mixing(GetParam()), {});
  for (int64_t s = 1; s <= 3; ++s) step(run, s);
  const std::string to = folder_ / "final";
  std::filesystem::create_directories(to);
  write_model(to, *run.session, run.source, kF32, false);
  tiny::Run again(to, mixing(GetParam()), {});
  EXPECT_EQ(weights(again), weights(run));
  EXPECT_EQ(again.session->model().evaluate(tiny::input()), run.session->model().evaluate(tiny::input()));
}

// Token by token the model says what it says of whole sequences.
TEST_P(Mixers, DecodingIsEvaluation) {
  tiny::Run run(model_, mixing(GetParam()), {});
  for (int64_t s = 1; s <= 3; ++s) step(run, s);
  Model& model = run.session->model();
  HostBatch one = tiny::input();
  one.sequences = 1, one.ids.resize(14), one.positions.resize(14), one.labels.resize(14);
  std::vector<double> nats;
  model.evaluate(one, &nats);
  model.start_cache(14);
  std::vector<float> logits = model.feed({one.ids.begin(), one.ids.begin() + 5});
  for (int64_t t = 4; t < 13; ++t) {
    double top = -INFINITY, sum = 0;
    for (const float l : logits) top = std::max(top, double{l});
    for (const float l : logits) sum += std::exp(l - top);
    if (one.labels[t] >= 0) {
      EXPECT_NEAR(top + std::log(sum) - logits[static_cast<size_t>(one.labels[t])], nats[t], 1e-4);
    }
    logits = model.feed({one.ids[t + 1]});
  }
  model.end_cache();
}

TEST_P(Mixers, WhatCannotMixIsRefusedInWords) {
  const auto refusal = [&](const MixRequest& r, const std::string& model) -> std::string {
    try {
      tiny::Run run(model, r, {});
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(refusal(mixing(GetParam(), {"lst"}), model_).find("blocks"), std::string::npos);
  EXPECT_NE(refusal(mixing(GetParam()), tiny::model_folder(folder_, "qwen3")).find("norm"), std::string::npos);
  tiny::Run run(model_, mixing(GetParam()), {});
  const std::string to = folder_ / "half";
  std::filesystem::create_directories(to);
  write_model(to, *run.session, run.source, kF32, false);
  // The same mixer with other parameters than the folder holds.
  const std::string kind = GetParam(), other = kind == "deltanet" ? "deltanet:use_gate=true" : kind == kLact ? kind + ",low_rank=4" : "mla:kv_lora_rank=16,q_lora_rank=8";
  EXPECT_NE(refusal(mixing(other), to).find("another --attention"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Mixers, testing::Values("deltanet", "mla:kv_lora_rank=16", kLact), [](const auto& info) {
  const std::string spec = info.param;
  return spec.substr(0, spec.find(':'));
});

}  // namespace
}  // namespace tenon::trainer
