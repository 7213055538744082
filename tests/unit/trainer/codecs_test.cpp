// Quantizers at other sites than weights: optimizer states that wait coded between updates, activations that wait coded for backward.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
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
  for (int64_t s = first; s <= last; ++s) run.session->step(s, 8, {tiny::input()}, 1e-3);
}

MixRequest coded(const std::string& optimizer, const std::string& states) {
  MixRequest m = tiny::mix(optimizer);
  m.states = states;
  return m;
}

struct StateMix {
  const char *name, *optimizer, *states;
  bool bf16, fused;
  double share = 0.6;  // of the plain states' bytes, at most
};

class CodedStates : public testing::TestWithParam<StateMix> {
 protected:
  tn_dtype compute() const { return GetParam().bf16 ? kBF16 : kF32; }
  SessionOptions options() const {
    SessionOptions o;
    o.seed = 3, o.fused_backward = GetParam().fused, o.sequence = 14, o.storage = compute();
    return o;
  }
  MixRequest mix() const { return coded(GetParam().optimizer, GetParam().states); }
};

TEST_P(CodedStates, ForecastIsTheMeasuredPeakAndSmallerThanWithout) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  tiny::Run run(model, mix(), options(), compute());
  const MemoryUse planned = plan_run(run.runtime, run.source, options(), {2, 14, false}, compute());
  steps(run, 1, 2);
  const MemoryUse measured = run.engine->memory().use();
  EXPECT_EQ(planned.peak, measured.peak);
  EXPECT_EQ(planned.total_peak, measured.total_peak);
  tiny::Run plain(model, tiny::mix(GetParam().optimizer), options(), compute());
  const auto state = static_cast<size_t>(Category::kOptimizerState);
  EXPECT_LT(static_cast<double>(measured.peak[state]), GetParam().share * static_cast<double>(plain.engine->memory().use().live[state]));
}

TEST_P(CodedStates, ResumeIsBitIdentical) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama"), output = folder / "out";
  std::filesystem::create_directories(output);
  tiny::Run whole(model, mix(), options(), compute());
  steps(whole, 1, 6);
  tiny::Run first(model, mix(), options(), compute());
  steps(first, 1, 3);
  const RunIdentity identity{{{"--states", GetParam().states}}, {}};
  save_checkpoint(output, 3, *first.session, identity, 2);
  tiny::Run second(model, mix(), options(), compute());
  std::vector<std::string> warnings;
  EXPECT_EQ(load_checkpoint(*newest_checkpoint(output), *second.session, identity, warnings), 3);
  steps(second, 4, 6);
  EXPECT_EQ(weights(whole), weights(second));
}

TEST_P(CodedStates, TrainsAsWellAsPlainStates) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  tiny::Run run(model, mix(), options(), compute()), plain(model, tiny::mix(GetParam().optimizer), options(), compute());
  double with = 0, without = 0;
  for (int64_t s = 1; s <= 30; ++s) {
    with = run.session->step(s, 30, {tiny::input()}, 3e-3).loss;
    without = plain.session->step(s, 30, {tiny::input()}, 3e-3).loss;
  }
  EXPECT_NEAR(with, without, 0.02 * without);
}

INSTANTIATE_TEST_SUITE_P(Mixes, CodedStates,
                         testing::Values(StateMix{"coat", "adamw", "coat-fp8", false, false}, StateMix{"coat16", "adamw", "coat-fp8", true, true},
                                         StateMix{"blockwise", "adamw", "blockwise-8bit:blocksize=64", false, false, 1.01},  // it keeps states as small as these in f32
                                        
                                         StateMix{"sgd", "sgd:momentum=0.9", "coat-fp8", true, false},
                                         StateMix{"whole", "muon", "coat-fp8", false, true}),
                         [](const auto& info) { return std::string(info.param.name); });

struct ActivationMix {
  const char *name, *model, *codec;
  std::vector<std::string> adapters;
  bool bf16;
  Checkpointing checkpointing;
  double gradient;  // largest relative error of all gradients
};

class CodedActivations : public testing::TestWithParam<ActivationMix> {
 protected:
  tn_dtype compute() const { return GetParam().bf16 ? kBF16 : kF32; }
  SessionOptions options() const {
    SessionOptions o;
    o.seed = 3, o.sequence = 14, o.storage = compute(), o.memory.checkpointing = GetParam().checkpointing;
    return o;
  }
  MixRequest mix(bool coded) const {
    MixRequest m = tiny::mix("adamw", GetParam().adapters);
    if (coded) m.activations = GetParam().codec;
    return m;
  }
};

TEST_P(CodedActivations, ForwardIsExactAndGradientsAreNear) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, GetParam().model);
  tiny::Run plain(model, mix(false), options(), compute()), run(model, mix(true), options(), compute());
  std::map<std::string, std::vector<float>> exact, near;
  const MemoryOptions memory = options().memory;
  EXPECT_EQ(run.gradients(tiny::input(), memory, near), plain.gradients(tiny::input(), memory, exact));
  double error = 0, power = 0;
  for (const auto& [name, g] : exact)
    for (size_t i = 0; i < g.size(); ++i) error += std::pow(double{near.at(name)[i]} - g[i], 2), power += std::pow(double{g[i]}, 2);
  EXPECT_GT(error, 0);  // something was coded
  EXPECT_LT(std::sqrt(error / power), GetParam().gradient);
}

TEST_P(CodedActivations, ForecastIsTheMeasuredPeak) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, GetParam().model);
  SessionOptions o = options();
  o.accumulate = 2;
  tiny::Run run(model, mix(true), o, compute());
  const MemoryUse planned = plan_run(run.runtime, run.source, o, {2, 14, false}, compute());
  for (int64_t step = 1; step <= 2; ++step) run.session->step(step, 2, {tiny::input(), tiny::input()}, 1e-3);
  EXPECT_EQ(planned.total_peak, run.engine->memory().use().total_peak);
  EXPECT_EQ(planned.peak, run.engine->memory().use().peak);
}

TEST_P(CodedActivations, ResumeIsBitIdentical) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, GetParam().model), output = folder / "out";
  std::filesystem::create_directories(output);
  tiny::Run whole(model, mix(true), options(), compute());
  steps(whole, 1, 6);
  tiny::Run first(model, mix(true), options(), compute());
  steps(first, 1, 3);
  const RunIdentity identity{{{"--activations", GetParam().codec}}, {}};
  save_checkpoint(output, 3, *first.session, identity, 2);
  tiny::Run second(model, mix(true), options(), compute());
  std::vector<std::string> warnings;
  EXPECT_EQ(load_checkpoint(*newest_checkpoint(output), *second.session, identity, warnings), 3);
  steps(second, 4, 6);
  EXPECT_EQ(weights(whole), weights(second));
}

INSTANTIATE_TEST_SUITE_P(Mixes, CodedActivations,
                         testing::Values(ActivationMix{"mesa", "llama", "mesa-act8", {}, false, Checkpointing::kNone, 0.02},
                                         ActivationMix{"mesa16", "qwen3", "mesa-act8:group=16", {}, true, Checkpointing::kNone, 0.03},
                                         ActivationMix{"mesa_lora", "llama", "mesa-act8", {"lora:r=4,target_modules=all-linear"}, false, Checkpointing::kFlashCut, 0.03},
                                         ActivationMix{"coat", "llama", "coat-fp8", {}, false, Checkpointing::kNone, 0.05},
                                         ActivationMix{"coat16", "qwen2", "coat-fp8", {}, true, Checkpointing::kFlashCut, 0.05},
                                         ActivationMix{"no_extension", "llama", "blockwise-8bit:blocksize=64", {}, false, Checkpointing::kNone, 0.03}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(CodedActivations, WaitInAFileAsTheyWaitInMemory) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  SessionOptions o;
  MixRequest m = tiny::mix();
  m.activations = "mesa-act8";
  tiny::Run here(model, m, o);
  o.memory.offload = Offload::kFile, o.offload_folder = folder / "";
  tiny::Run there(model, m, o);
  std::map<std::string, std::vector<float>> a, b;
  EXPECT_EQ(here.gradients(tiny::input(), {}, a), there.gradients(tiny::input(), o.memory, b));
  EXPECT_EQ(a, b);
  EXPECT_GT(there.session->offloaded_bytes(), 0u);
}

TEST(CodedActivations, TakeAQuarterOfTheirMemory) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  const auto peak = [&](const std::string& codec) {
    MixRequest m = tiny::mix("sgd");
    m.activations = codec;
    const Runtime runtime(tiny::catalog(), m);
    const ModelSource source = ModelSource::open("preset:9m", 320);
    SessionOptions o;
    o.sequence = 256, o.memory.loss_tile_bytes = 1 << 16;
    return plan_run(runtime, source, o, {8, 256, false}, kF32).peak[static_cast<size_t>(Category::kActivations)];
  };
  const auto plain = static_cast<double>(peak("")), coded = static_cast<double>(peak("mesa-act8"));
  EXPECT_LT(coded, 0.6 * plain) << plain << " to " << coded;
}

TEST(CodedStates, AreRefusedWhereTheyCannotBe) {
  const auto refusal = [](const MixRequest& m) -> std::string {
    try {
      const Runtime runtime(tiny::catalog(), m);
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  };
  EXPECT_NE(refusal(coded("adamw", "nf4")).find("coat-fp8"), std::string::npos);  // names those that do hold states
  EXPECT_NE(refusal(coded("adamw", "coat-fp9")).find("coat-fp8"), std::string::npos);
  EXPECT_NE(refusal(tiny::mix("adamw", {"lora"}, "mesa-act8")).find("--quantizer"), std::string::npos);
  MixRequest wrong = tiny::mix();
  wrong.activations = "nf4";
  EXPECT_NE(refusal(wrong).find("--activations"), std::string::npos);
}

}  // namespace
}  // namespace tenon::trainer
