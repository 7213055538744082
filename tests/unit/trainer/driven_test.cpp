// Steps that an optimizer drives through losses: memory of inference, bit-exact replay, any trainable set.
#include <gtest/gtest.h>

#include "core/error.h"
#include "hosts/trainer/run/checkpoint.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

std::map<std::string, std::vector<float>> weights(tiny::Run& run) {
  std::map<std::string, std::vector<float>> all;
  for (Parameter& p : run.session->model().parameters()) all[p.name] = tiny::host_copy(*run.engine, p.value);
  return all;
}

TEST(Driven, TakesTheMemoryOfInferenceAndNoMore) {
  const tiny::Folder folder;
  for (const tn_dtype dtype : {kF32, kBF16}) {
    SessionOptions options, inference;
    options.sequence = inference.sequence = 14, options.storage = inference.storage = dtype;
    inference.train = false;
    tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix("mezo"), options, dtype), plain(tiny::model_folder(folder, "llama"), tiny::mix(), inference, dtype);
    for (int64_t step = 1; step <= 3; ++step) run.session->step(step, 3, {tiny::input()}, 1e-6);
    plain.session->model().evaluate(tiny::input());
    const MemoryUse trained = run.engine->memory().use(), evaluated = plain.engine->memory().use();
    EXPECT_EQ(trained.total_peak, plan_run(run.runtime, run.source, options, {2, 14, false, 3}, dtype).total_peak);
    // The panel of one displaced matrix of this tiny model (128 x 32) is all that inference does not have.
    EXPECT_LE(trained.total_peak, evaluated.total_peak + 128 * 32 * 4);
    EXPECT_EQ(trained.peak[static_cast<int>(Category::kGradients)], 0u);
    EXPECT_EQ(trained.peak[static_cast<int>(Category::kOptimizerState)], 0u);
  }
}

TEST(Driven, AProbeChangesNothingButTheLoss) {
  const tiny::Folder folder;
  for (const char* model : {"llama", "qwen2", "qwen3"}) {  // untied, tied with biases, norms of heads
    tiny::Run run(tiny::model_folder(folder, model), tiny::mix("mezo:eps=0.01"), {});
    const auto before = weights(run);
    const StepResult r = run.session->step(1, 2, {tiny::input()}, 0);
    EXPECT_EQ(weights(run), before) << model;
    EXPECT_NE(r.metrics.at("loss_plus"), r.metrics.at("loss_minus"));
    EXPECT_NEAR(r.loss, run.session->model().evaluate(tiny::input()) / tiny::predicted(tiny::input()), 0.05);
  }
}

// The displaced model is the model with displaced weights: (L+ − L−) / 2 eps is the derivative along z that the gradients give.
// A displaced head goes by panels of the vocabulary, here of 64 of its 96 tokens over 16 of 28 rows.
TEST(Driven, PanelsOfTheHeadGiveTheLossOfTheWhole) {
  const tiny::Folder folder;
  for (const char* model : {"llama", "qwen2"})  // a head of its own, and one tied to the embedding
    for (const int64_t room : {int64_t{8} << 10, int64_t{32} << 20}) {
      SessionOptions options;
      options.memory.loss_tile_bytes = room;
      tiny::Run run(tiny::model_folder(folder, model), tiny::mix("mezo:side=one"), options);
      const double plain = run.session->model().evaluate(tiny::input()) / tiny::predicted(tiny::input());
      const auto metrics = run.session->step(1, 1, {tiny::input()}, 0).metrics;
      EXPECT_NEAR(metrics.at("loss_minus"), plain, 1e-6 * plain) << model << room;
      EXPECT_NE(metrics.at("loss_plus"), metrics.at("loss_minus"));
    }
}

TEST(Driven, ProjectedGradientIsThatOfBackward) {
  const tiny::Folder folder;
  for (const char* model : {"llama", "qwen2", "qwen3"}) {
    const std::string path = tiny::model_folder(folder, model);
    tiny::Run zeroth(path, tiny::mix("mezo:eps=0.002"), {}), first(path, tiny::mix("sgd"), {});
    std::map<std::string, std::vector<float>> gradients;
    first.gradients(tiny::input(), {}, gradients);
    const auto before = weights(zeroth);
    // With a rate of 1 the update is −g z, so z can be read off it.
    const double g = zeroth.session->step(1, 2, {tiny::input()}, 1).metrics.at("projected_grad");
    double along = 0, sizes = 0;
    for (const auto& [name, after] : weights(zeroth))
      for (size_t i = 0; i < after.size(); ++i) {
        const double z = (before.at(name)[i] - after[i]) / g;
        along += z * gradients.at(name)[i], sizes += gradients.at(name)[i] * gradients.at(name)[i];
      }
    EXPECT_NEAR(g, along, 0.02 * std::sqrt(sizes) + 0.02 * std::fabs(along)) << model;
  }
}

TEST(Driven, ResumesBitForBitAndTrainsAdapters) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  // A region's own parameters are displaced like those of a linear's adapter.
  const MixRequest mixes[] = {tiny::mix("mezo:q=2"), tiny::mix("mezo:eps=0.01", {"lora:r=8,target_modules=all-linear"}, "nf4"),
                              tiny::mix("mezo:eps=0.01", {"meft:variant=1"}), tiny::mix("mezo:eps=0.01", {"lst:reduction_factor=2"})};
  for (const MixRequest& mix : mixes) {
    const auto values = [](tiny::Run& run) {
      std::vector<std::vector<float>> all;
      for (const Parameter* p : run.session->optimizer()->parameters()) all.push_back(tiny::host_copy(*run.engine, p->value));
      return all;
    };
    tiny::Run whole(model, mix, {}), first(model, mix, {}), second(model, mix, {});
    const auto start = values(whole);
    for (int64_t s = 1; s <= 6; ++s) {
      const StepResult r = whole.session->step(s, 6, {tiny::input()}, 1e-4);
      EXPECT_NE(r.metrics.at("projected_grad"), 0) << mix.optimizer;
    }
    for (int64_t s = 1; s <= 3; ++s) first.session->step(s, 6, {tiny::input()}, 1e-4);
    const std::string output = folder / ("out" + std::to_string(&mix - mixes));
    std::filesystem::create_directories(output);
    save_checkpoint(output, 3, *first.session, {}, 1);
    std::vector<std::string> warnings;
    ASSERT_EQ(load_checkpoint(newest_checkpoint(output).value(), *second.session, {}, warnings), 3);
    for (int64_t s = 4; s <= 6; ++s) second.session->step(s, 6, {tiny::input()}, 1e-4);
    EXPECT_EQ(values(second), values(whole));
    EXPECT_NE(values(whole), start);
  }
}

TEST(Driven, ScalesOfAQuantizedModelTrainAndItsCodesStay) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  for (const char* quantizer : {"nf4:double_quant=false", "blockwise-8bit"}) {
    SessionOptions options, inference;
    options.sequence = inference.sequence = 14;
    inference.train = false;
    tiny::Run run(model, tiny::mix("qzo:relative=true,clip=1000", {}, quantizer), options), plain(model, tiny::mix("adamw", {"lora"}, quantizer), inference);
    const auto codes = [&] {
      std::vector<std::vector<uint8_t>> all;
      for (Linear* l : run.session->model().linears())
        if (l->quantized) {
          const Tensor& t = l->quantized->components()[0];
          run.engine->download(t, all.emplace_back(t.bytes()).data());
        }
      return all;
    };
    const auto before = codes();
    const auto others = weights(run);
    const double start = run.session->model().evaluate(tiny::input());
    const StepResult r = run.session->step(1, 500, {tiny::input()}, 3e-4);
    EXPECT_NE(r.metrics.at("loss_plus"), r.metrics.at("loss_minus"));
    EXPECT_EQ(run.engine->memory().use().total_peak, plan_run(run.runtime, run.source, options, {2, 14, false}, kF32).total_peak);
    for (int64_t s = 2; s <= 200; ++s) run.session->step(s, 200, {tiny::input()}, 3e-4);
    EXPECT_LT(run.session->model().evaluate(tiny::input()), start - 0.13) << quantizer;
    EXPECT_EQ(codes(), before);
    EXPECT_EQ(weights(run), others);  // embedding and norms are frozen
    for (const Parameter* p : run.session->optimizer()->parameters()) EXPECT_EQ(p->role, uint32_t{TN_ROLE_SCALE}) << p->name;
  }
  EXPECT_THROW(Runtime(tiny::catalog(), tiny::mix("qzo")), Error);
  EXPECT_THROW(Runtime(tiny::catalog(), tiny::mix("qzo", {}, "nf4:double_quant=true")), Error);
  EXPECT_THROW(Runtime(tiny::catalog(), tiny::mix("adamw", {}, "nf4:double_quant=false")), Error);
}

TEST(Driven, LossFalls) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix("mezo"), {});
  const double before = run.session->model().evaluate(tiny::input());
  for (int64_t s = 1; s <= 150; ++s) run.session->step(s, 150, {tiny::input()}, 3e-4);
  EXPECT_LT(run.session->model().evaluate(tiny::input()), before - 0.26);  // 0.01 nats a token
}

TEST(Driven, IsRefusedWithWhatItCannotHave) {
  for (const char* optimizer : {"mezo for matrices, adamw for rest", "mezo for matrices"}) EXPECT_THROW(Runtime(tiny::catalog(), tiny::mix(optimizer)), Error);
  MixRequest clipped = tiny::mix("mezo");
  clipped.run_tags = {"run:clip-global-norm"};
  EXPECT_THROW(Runtime(tiny::catalog(), clipped), Error);
  clipped.run_tags.clear(), clipped.yielding_tags = {"run:clip-global-norm"};
  EXPECT_EQ(Runtime(tiny::catalog(), clipped).yielded_tags(), (std::vector<std::string>{"run:clip-global-norm"}));
}

}  // namespace
}  // namespace tenon::trainer
