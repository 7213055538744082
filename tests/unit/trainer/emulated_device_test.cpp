// The trainer on a device with memory of its own: the emulated GPU, where host code that touches a tensor faults, and where work runs only
// when somebody waits for it. Numbers are those of the CPU device.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "hosts/trainer/run/checkpoint.h"
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
