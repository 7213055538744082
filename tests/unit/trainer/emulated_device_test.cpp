// The trainer on a device with memory of its own: the emulated GPU, where host code that touches a tensor faults, and where work runs only
// when somebody waits for it. Numbers are those of the CPU device.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "hosts/trainer/run/checkpoint.h"
#include "tenon/gemm8.h"
#include "tenon/gemm_fp8.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

const Catalog& emulated() {
  static const Catalog c({std::string(TENON_BINARY_DIR) + "/lib/emulated"});
  return c;
}
MixRequest on_emulated(MixRequest request) {
  request.device = "emulated";
  return request;
}

struct EmulatedRun : tiny::Run {
  EmulatedRun(const std::string& model, const MixRequest& request, const SessionOptions& options, tn_dtype dtype = kF32)
      : tiny::Run(model, on_emulated(request), options, dtype, emulated()) {}
};

class Emulated : public testing::TestWithParam<const char*> {};

TEST_P(Emulated, TrainsAsTheCpuDoes) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  EmulatedRun gpu(model, tiny::mix(GetParam()), {});
  tiny::Run cpu(model, tiny::mix(GetParam()), {});
  for (int64_t step = 1; step <= 3; ++step) {
    const StepResult a = gpu.session->step(step, 3, {tiny::input()}, 1e-3), b = cpu.session->step(step, 3, {tiny::input()}, 1e-3);
    EXPECT_NEAR(a.loss, b.loss, 1e-5 * b.loss);
    EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-4 * b.grad_norm);
  }
  EXPECT_LT(tiny::distance(tiny::all_weights(gpu), tiny::all_weights(cpu)), 1e-4);
}
INSTANTIATE_TEST_SUITE_P(Optimizers, Emulated, testing::Values("sgd:momentum=0.9", "adamw", "adamw8:min_8bit_size=64"));

TEST(EmulatedDevice, TrainsAnAdapterOverFourBits) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  MixRequest mix = tiny::mix("adamw");
  mix.adapters = {"lora:r=4,target_modules=all-linear"}, mix.quantizer = "nf4";
  EmulatedRun gpu(model, mix, {}, kBF16);
  tiny::Run cpu(model, mix, {}, kBF16);
  for (int64_t step = 1; step <= 2; ++step) {
    const StepResult a = gpu.session->step(step, 2, {tiny::input()}, 1e-2), b = cpu.session->step(step, 2, {tiny::input()}, 1e-2);
    EXPECT_NEAR(a.loss, b.loss, 2e-3 * b.loss);
  }
}

// Their products, of integers and of FP8, are the device's.
TEST(EmulatedDevice, TrainsAnAdapterOverBytesMultipliedAsTheyAre) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  for (const char* quantizer : {"llm-int8", "llm-int8:threshold=1", "coat-fp8"}) {
    const MixRequest mix = tiny::mix("adamw", {"lora:r=4,target_modules=all-linear"}, quantizer);
    SessionOptions options;
    options.sequence = 14;
    EmulatedRun gpu(model, mix, options);
    tiny::Run cpu(model, mix, options);
    for (const char* products : {TN_EXT_GEMM8, TN_EXT_GEMM_FP8}) ASSERT_NE(gpu.engine->api()->get_extension(products), nullptr);
    for (int64_t step = 1; step <= 2; ++step) {
      const double a = gpu.session->step(step, 2, {tiny::input()}, 1e-3).loss, b = cpu.session->step(step, 2, {tiny::input()}, 1e-3).loss;
      EXPECT_NEAR(a, b, 2e-4 * b) << quantizer << ", step " << step;
    }
    options.storage = kF32;
    EXPECT_EQ(plan_run(gpu.runtime, gpu.source, options, {2, 14, false}, kF32).total_peak, gpu.engine->memory().use().total_peak) << quantizer;
  }
}

// Quantizers that see text: statistics, solvers, training of grids and edits on the device come to the CPU's model.
SessionOptions with_text(size_t sequences) {
  SessionOptions options;
  options.sequence = 14;
  options.calibration.assign(sequences, tiny::input().ids);
  for (size_t i = 0; i < sequences; ++i)
    for (int32_t& id : options.calibration[i]) id = (id * 7 + static_cast<int32_t>(31 * i)) % 96;
  return options;
}
class EmulatedCoding : public testing::TestWithParam<const char*> {};
TEST_P(EmulatedCoding, ComesToTheCpusModel) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  SessionOptions options = with_text(6);
  options.train = false;
  const MixRequest request = tiny::mix("", {}, GetParam());
  EmulatedRun gpu(model, request, options);
  tiny::Run cpu(model, request, options), dense(model, tiny::mix(""), options);
  const auto losses = [](tiny::Run& run) {
    std::vector<double> all;
    run.session->model().evaluate(tiny::input(), &all);
    return std::vector<float>(all.begin(), all.end());
  };
  // A weight at the edge of two codes may fall to either side.
  const std::vector<float> plain = losses(dense), here = losses(gpu), there = losses(cpu);
  EXPECT_GT(tiny::distance(there, plain), 1e-4);
  EXPECT_LT(tiny::distance(here, there), 0.05 * tiny::distance(there, plain));
}
INSTANTIATE_TEST_SUITE_P(Quantizers, EmulatedCoding,
                         testing::Values("gptq:bits=4,group_size=32", "gptq:bits=3,group_size=32,act_order=true", "bitstack:niter=3,k=4,scored_levels=0",
                                         "efficientqat:bits=3,group_size=32,train_size=6,training_seqlen=28,epochs=1,val_size=0", "slicegpt:sparsity=0.25"));

// And train an adapter over it, in the memory that was planned.
class EmulatedCodedBase : public testing::TestWithParam<const char*> {};
TEST_P(EmulatedCodedBase, TrainsInThePlannedMemory) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  const SessionOptions options = with_text(6);
  const MixRequest request = tiny::mix("adamw", {"lora:r=4"}, GetParam());
  EmulatedRun gpu(model, request, options);
  tiny::Run cpu(model, request, options);
  for (int64_t step = 1; step <= 2; ++step) {
    const double a = gpu.session->step(step, 2, {tiny::input()}, 1e-3).loss, b = cpu.session->step(step, 2, {tiny::input()}, 1e-3).loss;
    EXPECT_NEAR(a, b, 2e-3 * b) << step;
  }
  SessionOptions stored = options;
  stored.storage = kF32;
  const double planned = static_cast<double>(plan_run(gpu.runtime, gpu.source, stored, {2, 14, false}, kF32).total_peak);
  EXPECT_NEAR(planned, static_cast<double>(gpu.engine->memory().use().total_peak), 0.03 * planned);
}
INSTANTIATE_TEST_SUITE_P(Quantizers, EmulatedCodedBase,
                         testing::Values("gptq:bits=4,group_size=32,samples=6,sample_length=28", "bitstack:niter=3,k=4,scored_levels=0,nsamples=6,sample_length=28",
                                         "efficientqat:bits=3,group_size=32,train_size=6,training_seqlen=28,epochs=1,val_size=0"));

TEST(EmulatedDevice, CheckpointsMoveBetweenDevices) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama"), output = folder / "run";
  const RunIdentity identity{{{"optimizer", "adamw"}}, {}};
  std::filesystem::create_directories(output);
  tiny::Run whole(model, tiny::mix("adamw"), {});
  for (int64_t step = 1; step <= 4; ++step) whole.session->step(step, 4, {tiny::input()}, 1e-3);
  EmulatedRun first(model, tiny::mix("adamw"), {});
  for (int64_t step = 1; step <= 2; ++step) first.session->step(step, 4, {tiny::input()}, 1e-3);
  save_checkpoint(output, 2, *first.session, identity, 2);
  tiny::Run second(model, tiny::mix("adamw"), {});
  std::vector<std::string> warnings;
  ASSERT_EQ(load_checkpoint(newest_checkpoint(output).value(), *second.session, identity, warnings), 2);
  for (int64_t step = 3; step <= 4; ++step) second.session->step(step, 4, {tiny::input()}, 1e-3);
  EXPECT_LT(tiny::distance(tiny::all_weights(second), tiny::all_weights(whole)), 1e-5);
}

// Saved activations wait in host memory, copied beside the computation: the same bits, and a peak that does not grow with the number of blocks that
// are away.
TEST(EmulatedDevice, SavedActivationsWaitInHostMemory) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  SessionOptions away;
  away.sequence = 14, away.memory.offload = Offload::kAuto, away.memory.offload_keep_last = 0;
  for (const Checkpointing policy : {Checkpointing::kNone, Checkpointing::kBlock}) {
    SessionOptions here;
    here.memory.checkpointing = away.memory.checkpointing = policy;
    EmulatedRun plain(model, tiny::mix(), here), offloaded(model, tiny::mix(), away);
    for (int64_t step = 1; step <= 2; ++step)
      EXPECT_EQ(plain.session->step(step, 2, {tiny::input()}, 1e-3).loss, offloaded.session->step(step, 2, {tiny::input()}, 1e-3).loss);
    EXPECT_EQ(tiny::all_weights(plain), tiny::all_weights(offloaded));
    const RunMemory planned = plan_run(offloaded.runtime, offloaded.source, away, {2, 14, false}, kF32);
    EXPECT_EQ(planned.offloaded, offloaded.session->offloaded_bytes());
    EXPECT_EQ(planned.total_peak, offloaded.engine->memory().use().total_peak);
    EXPECT_GE(planned.offloaded, 2u * 28 * 32 * 4);
  }
}

class ZeroOffload : public testing::TestWithParam<std::tuple<const char*, int64_t>> {};

// Updates on the host: the CPU object of the optimizer over copies there.
TEST_P(ZeroOffload, UpdatesAsTheCpuDoesWithStatesOnTheHost) {
  const auto& [optimizer, accumulate] = GetParam();
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama"), output = folder / "run";
  MixRequest mix = tiny::mix(optimizer);
  SessionOptions options;
  options.sequence = 14, options.accumulate = accumulate, options.clip = 0.5;
  tiny::Run cpu(model, mix, options);
  EmulatedRun device(model, mix, options);
  mix.zero_offload = true;
  EmulatedRun host(model, mix, options);
  const std::vector<HostBatch> micro(static_cast<size_t>(accumulate), tiny::input());
  for (int64_t step = 1; step <= 3; ++step) {
    const StepResult a = host.session->step(step, 5, micro, 1e-3), b = cpu.session->step(step, 5, micro, 1e-3);
    device.session->step(step, 5, micro, 1e-3);
    EXPECT_NEAR(a.loss, b.loss, 1e-5 * b.loss);
    EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-4 * b.grad_norm);
  }
  EXPECT_LT(tiny::distance(tiny::all_weights(host), tiny::all_weights(device)), 1e-5);
  const MemoryUse on_device = host.engine->memory().use(), before = device.engine->memory().use();
  EXPECT_EQ(on_device.peak[static_cast<size_t>(Category::kOptimizerState)], 0u);
  EXPECT_LT(on_device.peak[static_cast<size_t>(Category::kGradients)], before.peak[static_cast<size_t>(Category::kGradients)]);
  const RunMemory planned = plan_run(host.runtime, host.source, options, {2, 14, false}, kF32);
  EXPECT_EQ(planned.offloaded, host.session->offloaded_bytes());
  EXPECT_EQ(planned.total_peak, on_device.total_peak);

  // Its checkpoints are anybody's.
  const RunIdentity identity{{{"optimizer", optimizer}}, {}};
  std::filesystem::create_directories(output);
  save_checkpoint(output, 3, *host.session, identity, 2);
  EmulatedRun again(model, mix, options);
  std::vector<std::string> warnings;
  ASSERT_EQ(load_checkpoint(newest_checkpoint(output).value(), *again.session, identity, warnings), 3);
  for (int64_t step = 4; step <= 5; ++step) host.session->step(step, 5, micro, 1e-3), again.session->step(step, 5, micro, 1e-3);
  EXPECT_EQ(tiny::all_weights(again), tiny::all_weights(host));
}
INSTANTIATE_TEST_SUITE_P(Optimizers, ZeroOffload, testing::Combine(testing::Values("sgd:momentum=0.9", "adamw"), testing::Values(1, 2)));

// Of several cards the first that can be used; what was passed over is said.
TEST(EmulatedDevice, OfSeveralCardsOneThatCanBeUsedIsChosen) {
  ASSERT_EQ(setenv("TENON_EMULATED_CARDS", "-++", 1), 0);
  std::vector<std::string> reasons;
  const Device chosen = Device::open(emulated(), "auto", &reasons);
  EXPECT_EQ(chosen.id().type, 12);
  EXPECT_EQ(chosen.id().index, 1);
  ASSERT_EQ(reasons.size(), 1u);
  EXPECT_NE(reasons[0].find("a newer card is needed"), std::string::npos) << reasons[0];
  EXPECT_THROW(Device::open(emulated(), "emulated:0"), Error);
  EXPECT_EQ(Device::open(emulated(), "emulated:2").id().index, 2);
  ASSERT_EQ(unsetenv("TENON_EMULATED_CARDS"), 0);
}

TEST(EmulatedDevice, IsChosenBeforeACpuAndRefusesInWords) {
  EXPECT_EQ(Device::open(emulated(), "auto").id().type, 12);
  EXPECT_EQ(Device::open(emulated(), "emulated:0").backend(), "emulated");
  try {
    Device::open(emulated(), "emulated:3");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("has devices 0 to 0"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace tenon::trainer
