// Every adapter in the trainer: loss falls with and without a quantizer, memory is as planned, resuming is bit-exact, files come back.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "hosts/trainer/run/checkpoint.h"
#include "hosts/trainer/run/export.h"
#include "hosts/trainer/run/generate.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

struct Case {
  const char* name;
  std::vector<std::string> adapters;
  const char* quantizer;
  double lr;
};

std::vector<Case> cases() {
  return {{"dora", {"dora:r=4,target_modules=all-linear"}, "", 1e-2},
          {"dora_nf4", {"dora:r=4,target_modules=all-linear,norm_grad=true"}, "nf4", 1e-2},
          {"paca", {"paca:r=4"}, "", 1e-2},
          {"paca_nf4", {"paca:r=4,selection=norm"}, "nf4", 1e-2},
          {"sltrain", {"sltrain:r=4,sp_ratio=0.1"}, "", 1e-2},
          {"sltrain_nf4", {"sltrain:r=4,sp_ratio=0.1,target_modules=q_proj+v_proj"}, "nf4", 1e-2},
          {"lr_qat", {"lr-qat:r=4,lora_alpha=4"}, "", 1e-2},
          {"lr_qat_nf4", {"lr-qat:r=4,bits=3,group_size=16,target_modules=gate_proj+up_proj+down_proj"}, "nf4", 1e-2},
          {"compacter", {"compacter:hypercomplex_division=2,reduction_factor=4"}, "", 1e-2},
          {"compacter_nf4", {"compacter:hypercomplex_division=2,reduction_factor=4,placement=ffn"}, "nf4", 1e-2},
          {"sites", {"dora:r=4,target_modules=q_proj+v_proj", "paca:r=4,target_modules=gate_proj+up_proj", "lora:r=2,target_modules=down_proj"}, "nf4", 1e-2},
          {"stacked", {"dora:r=4,target_modules=q_proj", "paca:r=4,target_modules=q_proj+o_proj", "lora:r=2,target_modules=q_proj"}, "", 1e-2}};
}

class Adapters : public testing::TestWithParam<Case> {
 protected:
  const tiny::Folder folder_;
  const std::string model_ = tiny::model_folder(folder_, "llama");
  MixRequest request() const { return tiny::mix("adamw", GetParam().adapters, GetParam().quantizer); }
  static SessionOptions options() {
    SessionOptions o;
    o.sequence = 14, o.seed = 3;
    return o;
  }
  void steps(tiny::Run& run, int64_t first, int64_t last) {
    for (int64_t s = first; s <= last; ++s) last_loss_ = run.session->step(s, 10, {tiny::input()}, GetParam().lr).loss;
  }
  static std::map<std::string, std::vector<float>> weights(tiny::Run& run) {
    std::map<std::string, std::vector<float>> all;
    for (const Parameter* p : run.session->optimizer()->parameters()) all[p->name] = tiny::host_copy(*run.engine, p->value);
    return all;
  }
  double last_loss_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Mixes, Adapters, testing::ValuesIn(cases()), [](const auto& info) { return std::string(info.param.name); });

TEST_P(Adapters, LossFallsAndMemoryIsAsPlanned) {
  tiny::Run run(model_, request(), options());
  const MemoryUse planned = plan_run(run.runtime, run.source, options(), {2, 14, true}, kF32);
  steps(run, 1, 1);
  const double first = last_loss_;
  steps(run, 2, 8);
  EXPECT_LT(last_loss_, first - 0.005);
  run.session->model().evaluate(shape_batch(evaluation_rows(14), 14, 96));
  const MemoryUse measured = run.engine->memory().use();
  EXPECT_NEAR(static_cast<double>(planned.total_peak), static_cast<double>(measured.total_peak), 0.03 * static_cast<double>(measured.total_peak));
}

TEST_P(Adapters, ResumesBitForBit) {
  tiny::Run whole(model_, request(), options());
  steps(whole, 1, 4);
  tiny::Run first(model_, request(), options());
  steps(first, 1, 2);
  const std::string output = folder_ / "output";
  std::filesystem::create_directories(output);
  save_checkpoint(output, 2, *first.session, {}, 2);
  tiny::Run second(model_, request(), options());
  std::vector<std::string> warnings;
  ASSERT_EQ(load_checkpoint(newest_checkpoint(output).value(), *second.session, {}, warnings), 2);
  steps(second, 3, 4);
  EXPECT_EQ(weights(second), weights(whole));
}

// Written, read back into fresh instances made from the written configurations: the same losses.
TEST_P(Adapters, FilesComeBack) {
  tiny::Run run(model_, request(), options());
  steps(run, 1, 3);
  std::vector<double> expected;
  run.session->model().evaluate(tiny::input(), &expected);
  MixRequest again = request();
  for (size_t i = 0; i < run.set->adapters.size(); ++i) {
    const std::string to = folder_ / ("adapter" + std::to_string(i));
    std::filesystem::create_directories(to);
    write_adapter(to, *run.session, *run.set->adapters[i], "llama");
    again.adapter_from.push_back(to);
  }
  tiny::Run back(model_, again, options());
  for (size_t i = 0; i < back.set->adapters.size(); ++i) read_adapter(*back.session, *back.set->adapters[i], again.adapter_from[i]);
  std::vector<double> found;
  back.session->model().evaluate(tiny::input(), &found);
  EXPECT_EQ(found, expected);
}

// Recomputing activations changes no bit, tiles of rows nothing but rounding.
TEST_P(Adapters, MemoryFeaturesChangeNoNumber) {
  tiny::Run run(model_, request(), options());
  steps(run, 1, 2);
  std::map<std::string, std::vector<float>> plain, again;
  const double loss = run.gradients(tiny::input(), {}, plain);
  MemoryOptions memory;
  memory.checkpointing = Checkpointing::kBlock;
  EXPECT_EQ(run.gradients(tiny::input(), memory, again), loss);
  EXPECT_EQ(again, plain);
  memory.tiled_mlp = memory.tiled_loss = true;
  EXPECT_NEAR(run.gradients(tiny::input(), memory, again), loss, 1e-6 * loss);
}

// Decoding one token at a time gives what a whole pass gives.
TEST_P(Adapters, DecodingAgreesWithAWholePass) {
  tiny::Run run(model_, request(), options());
  steps(run, 1, 3);
  const HostBatch b = tiny::input();
  Model& model = run.session->model();
  model.start_cache(13);
  double nats = 0;
  for (int64_t t = 0; t < 13; ++t) {
    const std::vector<float> logits = model.feed({b.ids[t]});
    double most = logits[0], sum = 0;
    for (float l : logits) most = std::max<double>(most, l);
    for (float l : logits) sum += std::exp(l - most);
    nats += most + std::log(sum) - logits[b.labels[t]];
  }
  model.end_cache();
  std::vector<double> losses;
  model.evaluate(b, &losses);
  double expected = 0;
  for (int64_t t = 0; t < 13; ++t) expected += losses[t];
  EXPECT_NEAR(nats, expected, 1e-4 * expected);
}

TEST(AdapterFiles, DoraOfPeftGivesItsLogits) {
  const tiny::Folder folder;
  MixRequest request = tiny::mix("adamw");
  request.adapter_from = {golden::path("dora/adapter")};
  tiny::Run run(tiny::model_folder(folder, "llama"), request, {});
  EXPECT_EQ(run.runtime.short_spec(TN_KIND_ADAPTER).substr(0, 4), "dora");
  read_adapter(*run.session, *run.set->adapters[0], request.adapter_from[0]);
  const golden::File expected("dora/expected.safetensors");
  const HostBatch batch = tiny::input();
  EXPECT_NEAR(run.session->model().evaluate(batch) / tiny::predicted(batch), expected.f32("loss")[0], 2e-5);
}

TEST(Adapter, WeightsThatAnAdapterHoldsAreNotAllocated) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  tiny::Run dense(model, tiny::mix("adamw", {"lora:r=1"}), {}), held(model, tiny::mix("adamw", {"sltrain:r=1,sp_ratio=0.01,train_rest=false"}), {});
  const auto weights = [](tiny::Run& r) { return r.engine->memory().use().live[static_cast<size_t>(Category::kWeights)]; };
  EXPECT_LT(weights(held), weights(dense) / 2);
}

TEST(Adapter, MergedOwnersAndStacksComputeTheSame) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  for (const char* adapter : {"dora:r=4,target_modules=all-linear", "paca:r=4", "sltrain:r=4,sp_ratio=0.1", "lr-qat:r=4"}) {
    tiny::Run run(model, tiny::mix("adamw", {adapter}), {});
    for (int64_t s = 1; s <= 3; ++s) run.session->step(s, 3, {tiny::input()}, 1e-2);
    const std::string to = folder / (std::string("merged-") + std::string(adapter).substr(0, 4));
    std::filesystem::create_directories(to);
    write_model(to, *run.session, run.source, kF32, true);
    tiny::Run merged(to, tiny::mix(), {});
    EXPECT_NEAR(merged.session->model().evaluate(tiny::input()), run.session->model().evaluate(tiny::input()), 1e-4) << adapter;
  }
}

TEST(Adapter, BehindASubLayerCannotBeMerged) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix("adamw", {"compacter:hypercomplex_division=2,reduction_factor=4"}), {});
  const std::string to = folder / "merged";
  std::filesystem::create_directories(to);
  EXPECT_THROW(write_model(to, *run.session, run.source, kF32, true), Error);
}

TEST(Adapter, DoraOverAnotherAdapterIsRefusedInWords) {
  const tiny::Folder folder;
  try {
    tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix("adamw", {"lora:r=4", "dora:r=4"}), {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("first adapter"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace tenon::trainer
