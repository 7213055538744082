// The trainer on a card against the CPU: the same training, checkpoints that move, the same random numbers. The environment variable TENON_CARD names the
// backend (cuda where it is not set); without a card every test is skipped, with the device plugin's reason.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "hosts/trainer/run/checkpoint.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

const char* const kBackend = std::getenv("TENON_CARD") ? std::getenv("TENON_CARD") : "cuda";

std::string missing() {
  try {
    Device::open(tiny::catalog(), kBackend);
    return {};
  } catch (const Error& e) {
    return e.what();
  }
}
#define NEEDS_A_CARD() \
  if (const std::string why = missing(); !why.empty()) GTEST_SKIP() << why

MixRequest on_card(MixRequest request) {
  request.device = kBackend;
  return request;
}

// Three steps on both: losses, gradient norms and weights.
void expect_equal_training(const MixRequest& mix, tn_dtype compute, double of_losses, double of_weights) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  tiny::Run card(model, on_card(mix), {}, compute), cpu(model, mix, {}, compute);
  for (int64_t step = 1; step <= 3; ++step) {
    const StepResult a = card.session->step(step, 3, {tiny::input()}, 1e-3), b = cpu.session->step(step, 3, {tiny::input()}, 1e-3);
    EXPECT_NEAR(a.loss, b.loss, of_losses * b.loss);
    EXPECT_NEAR(a.grad_norm, b.grad_norm, 10 * of_losses * b.grad_norm);
  }
  EXPECT_LT(tiny::distance(tiny::all_weights(card), tiny::all_weights(cpu)), of_weights);
}

class OptimizerOnCard : public testing::TestWithParam<const char*> {};
TEST_P(OptimizerOnCard, TrainsAsTheCpuDoes) {
  NEEDS_A_CARD();
  expect_equal_training(tiny::mix(GetParam()), kF32, 1e-5, 1e-4);
}
INSTANTIATE_TEST_SUITE_P(All, OptimizerOnCard,
                         testing::Values("sgd:momentum=0.9", "adamw", "adamw8:min_8bit_size=64", "adam-mini", "galore:rank=4", "fira:rank=4", "frugal", "lisa",
                                         "muon:ns_dtype=f32", "soap", "cosmos:rank=8,ns_dtype=f32", "mkor"));

class AdapterOnCard : public testing::TestWithParam<const char*> {};
TEST_P(AdapterOnCard, TrainsAsTheCpuDoes) {
  NEEDS_A_CARD();
  MixRequest mix = tiny::mix("adamw");
  mix.adapters = {GetParam()};
  expect_equal_training(mix, kF32, 1e-4, 1e-3);
}
INSTANTIATE_TEST_SUITE_P(All, AdapterOnCard, testing::Values("lora:r=4,target_modules=all-linear", "dora:r=4", "increlora", "sltrain:r=4"));

class QuantizerOnCard : public testing::TestWithParam<const char*> {};
TEST_P(QuantizerOnCard, ServesAFrozenBaseAsOnTheCpu) {
  NEEDS_A_CARD();
  MixRequest mix = tiny::mix("adamw");
  mix.adapters = {"lora:r=4,target_modules=all-linear"}, mix.quantizer = GetParam();
  expect_equal_training(mix, kBF16, 2e-3, 2e-2);
}
INSTANTIATE_TEST_SUITE_P(All, QuantizerOnCard, testing::Values("nf4", "gguf-blocks:type=Q8_0", "blockwise-8bit"));

TEST(Card, ResumesWhatTheCpuBegan) {
  NEEDS_A_CARD();
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama"), output = folder / "run";
  const RunIdentity identity{{{"optimizer", "adamw"}}, {}};
  std::filesystem::create_directories(output);
  tiny::Run whole(model, tiny::mix("adamw"), {}), first(model, tiny::mix("adamw"), {});
  for (int64_t step = 1; step <= 4; ++step) whole.session->step(step, 4, {tiny::input()}, 1e-3);
  for (int64_t step = 1; step <= 2; ++step) first.session->step(step, 4, {tiny::input()}, 1e-3);
  save_checkpoint(output, 2, *first.session, identity, 2);
  tiny::Run card(model, on_card(tiny::mix("adamw")), {});
  std::vector<std::string> warnings;
  ASSERT_EQ(load_checkpoint(newest_checkpoint(output).value(), *card.session, identity, warnings), 2);
  for (int64_t step = 3; step <= 4; ++step) card.session->step(step, 4, {tiny::input()}, 1e-3);
  EXPECT_LT(tiny::distance(tiny::all_weights(card), tiny::all_weights(whole)), 1e-5);
}

std::vector<float> uniform_numbers(const char* device_name, int64_t n) {
  const Device device = Device::open(tiny::catalog(), device_name);
  const Stream stream(device);
  const tn_device_api& api = device.api();
  const auto must = [](int32_t status) { EXPECT_EQ(status, TN_OK); };
  void* memory = nullptr;
  must(api.alloc(device.handle(), static_cast<uint64_t>(n) * 4, &memory));
  int64_t shape[] = {n}, strides[] = {1};
  tn_tensor x{memory, device.id(), 1, kF32, shape, strides, 0};
  const tn_rng key{0x0123456789abcdefu, 77, 5};
  must(device.ops()->fill_random(device.handle(), stream.handle(), TN_FILL_UNIFORM, 0, 1, &key, &x));
  std::vector<float> out(static_cast<size_t>(n));
  must(api.copy(device.handle(), stream.handle(), out.data(), memory, static_cast<uint64_t>(n) * 4, TN_COPY_TO_HOST));
  must(api.stream_wait(device.handle(), stream.handle()));
  api.free(device.handle(), memory);
  return out;
}
TEST(Card, DrawsTheCpusNumbersBitForBit) {
  NEEDS_A_CARD();
  const std::vector<float> a = uniform_numbers(kBackend, 100003), b = uniform_numbers("onednn", 100003);
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * 4), 0);
}

// Every shape of the family in small: grouped heads, tied embeddings, biases, normed heads.
class ModelOnCard : public testing::TestWithParam<const char*> {};
TEST_P(ModelOnCard, LearnsAsOnTheCpu) {
  NEEDS_A_CARD();
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, GetParam());
  tiny::Run card(model, on_card(tiny::mix("adamw")), {}), cpu(model, tiny::mix("adamw"), {});
  for (int64_t step = 1; step <= 5; ++step) {
    const double a = card.session->step(step, 5, {tiny::input()}, 1e-3).loss, b = cpu.session->step(step, 5, {tiny::input()}, 1e-3).loss;
    EXPECT_NEAR(a, b, 1e-4 * b) << step;
  }
}
INSTANTIATE_TEST_SUITE_P(All, ModelOnCard, testing::Values("llama", "llama2", "mistral", "qwen2", "qwen3"));

}  // namespace
}  // namespace tenon::trainer
