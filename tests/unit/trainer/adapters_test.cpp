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
          {"paca_by_gradient", {"paca:r=4,selection=gradient,selection_steps=2"}, "", 1e-2},
          {"sltrain", {"sltrain:r=4,sp_ratio=0.1"}, "", 1e-2},
          {"sltrain_nf4", {"sltrain:r=4,sp_ratio=0.1,target_modules=q_proj+v_proj"}, "nf4", 1e-2},
          {"lr_qat", {"lr-qat:r=4,lora_alpha=4"}, "", 1e-2},
          {"lr_qat_nf4", {"lr-qat:r=4,bits=3,group_size=16,target_modules=gate_proj+up_proj+down_proj"}, "nf4", 1e-2},
          {"compacter", {"compacter:hypercomplex_division=2,reduction_factor=4,gate=large,dropout=0.1"}, "", 1e-2},
          {"compacter_nf4", {"compacter:hypercomplex_division=2,reduction_factor=4,placement=ffn"}, "nf4", 1e-2},
          {"wta_crs", {"lora:r=4,target_modules=all-linear", "wta-crs:sample_ratio=0.5,min_rows=4,target_modules=all-linear"}, "nf4", 1e-2},
          {"wta_crs_full", {"wta-crs:sample_ratio=0.5,min_rows=4,tune_weights=true,target_modules=all-linear"}, "", 3e-3},
          {"qst", {"qst:reduction=2,r=4,output_logit=0,activation=silu"}, "", 2e-2},
          {"qst_nf4_rerun", {"qst:reduction=4,r=4,output_logit=0,taps=rerun"}, "nf4", 2e-2},
          {"qst_frozen", {"qst:reduction=4,r=4,output_logit=0,downsample=frozen"}, "nf4", 2e-2},
          {"qst_pool", {"qst:reduction=4,output_logit=0,downsample=pool"}, "nf4", 2e-2},
          {"lst", {"lst:reduction_factor=2"}, "nf4", 2e-2},
          {"lst_nf4_rerun", {"lst:reduction_factor=2,gate=after,init=fresh,taps=rerun,dropped_layers=0"}, "nf4", 2e-2},
          {"lst_even", {"lst:reduction_factor=2,init=even"}, "", 2e-2},
          {"meft1", {"meft:variant=1"}, "", 2e-2},
          {"meft2", {"meft:variant=2"}, "", 2e-2},
          {"meft3", {"meft:variant=3,dropout=0.1"}, "nf4", 2e-2},
          {"meft_mixed", {"meft:variant=1,reversible_blocks=1,where=highest", "lora:r=4,target_modules=all-linear"}, "nf4", 1e-2},
          {"increlora", {"increlora:init_warmup=2,incre_interval=1,score_every=1,target_r=2,increment=1,top_h=6"}, "", 1e-2},
          {"increlora_nf4", {"increlora:init_warmup=1,incre_interval=2,score_every=1,target_r=3,increment=2,target_modules=q_proj+down_proj"}, "nf4", 1e-2},
          {"lora_on_embedding_and_head", {"lora:r=4,target_modules=embed_tokens+lm_head+q_proj"}, "nf4", 1e-2},
          {"lora_twice_on_the_embedding", {"lora:r=4,target_modules=embed_tokens", "lora:r=2,target_modules=embed_tokens+v_proj"}, "", 1e-2},
          {"lora_with_whole_modules", {"lora:r=4,modules_to_save=embed_tokens+lm_head"}, "nf4", 1e-2},
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
  const double plan = static_cast<double>(planned.total_peak), peak = static_cast<double>(measured.total_peak);
  // What grows is planned at its largest, which a run need not come to.
  const bool grows = std::string(GetParam().name).starts_with("increlora");
  EXPECT_NEAR(plan, peak, (grows ? 0.3 : 0.03) * peak);
  EXPECT_GE(plan, 0.97 * peak);
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
  memory.tiled_mlp = true, memory.loss_tile_bytes = 96 * 4 * 5;
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

// Four bits a weight and a scale a row: training the factors wins back part of what rounding lost, training with full rank more.
TEST(Adapter, LrQatLiesBetweenRoundingAndFullRank) {
  const tiny::Folder folder;
  const std::string tuned = folder / "tuned";
  std::filesystem::create_directories(tuned);
  {
    tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix(), {});
    for (int64_t s = 1; s <= 40; ++s) run.session->step(s, 40, {tiny::input()}, 3e-3);
    write_model(tuned, *run.session, run.source, kF32, true);
  }
  const auto losses = [&](const std::string& adapter) {
    tiny::Run run(tuned, adapter.empty() ? tiny::mix() : tiny::mix("adamw", {adapter}), {});
    const double before = run.session->model().evaluate(tiny::input());
    for (int64_t s = 1; s <= 15 && !adapter.empty(); ++s) run.session->step(s, 15, {tiny::input()}, 1e-3);
    return std::pair{before, run.session->model().evaluate(tiny::input())};
  };
  const double plain = losses("").first;
  const auto [rounded, low] = losses("lr-qat:r=1");
  const auto [same, full] = losses("lr-qat:r=32,lora_alpha=32");
  EXPECT_EQ(rounded, same);
  EXPECT_GT(rounded, 1.02 * plain);
  EXPECT_LT(low, 0.99 * rounded);
  EXPECT_LT(full, low);
}

// A merged model has a head of its own where the adapted one was tied, since one of the two changed.
TEST(Adapter, MergingIntoATiedEmbeddingUntiesIt) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "qwen2");
  for (const char* module : {"embed_tokens", "lm_head"}) {
    tiny::Run run(model, tiny::mix("adamw", {std::string("lora:r=4,target_modules=q_proj+") + module}), {});
    for (int64_t s = 1; s <= 3; ++s) run.session->step(s, 3, {tiny::input()}, 1e-2);
    const std::string to = folder / (std::string("merged-") + module);
    std::filesystem::create_directories(to);
    write_model(to, *run.session, run.source, kF32, true);
    EXPECT_FALSE(ModelSource::open(to, 0).config().tied);
    tiny::Run merged(to, tiny::mix(), {});
    EXPECT_NEAR(merged.session->model().evaluate(tiny::input()), run.session->model().evaluate(tiny::input()), 1e-4) << module;
  }
}

TEST(Adapter, AnEmbeddingIsRefusedByAdaptersOfLinears) {
  const tiny::Folder folder;
  try {
    tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix("adamw", {"dora:r=4,target_modules=embed_tokens+q_proj"}), {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("model.embed_tokens, an embedding"), std::string::npos) << e.what();
  }
}

TEST(Adapter, RanksAreGivenOutUntilTheBudgetIsMetExactly) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"),
                tiny::mix("adamw", {"increlora:init_warmup=2,incre_interval=1,score_every=1,target_r=3,increment=2,top_h=5,target_modules=all-linear"}), {});
  for (int64_t s = 1; s <= 12; ++s) run.session->step(s, 12, {tiny::input()}, 1e-2);
  int64_t total = 0, sites = 0;
  for (const auto& p : run.set->adapters[0]->parameters)
    if (p->name.ends_with("lora_E")) {
      ++sites;
      const std::vector<float> e = tiny::host_copy(*run.engine, p->value);
      total += static_cast<int64_t>(e.size()) - 2;  // without the reserve
      EXPECT_EQ(e[e.size() - 1], 0);                // which has no use once the budget is met
    }
  EXPECT_EQ(total, 3 * sites);
}

// The gradients of methods that run the blocks themselves, against finite differences of the whole model's loss.
TEST(Adapter, RegionsAgreeWithFiniteDifferences) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  for (const char* adapter : {"qst:reduction=2,r=4,output_logit=0", "qst:reduction=4,r=3,output_logit=0,taps=rerun", "qst:reduction=4,output_logit=0,downsample=pool",
                              "lst:reduction_factor=2", "lst:reduction_factor=2,gate=after,init=fresh,taps=rerun", "meft:variant=1", "meft:variant=2",
                              "meft:variant=3", "meft:variant=1,reversible_blocks=1,where=lowest"}) {
    tiny::Run run(model, tiny::mix("sgd", {adapter}), {});
    for (const Parameter* p : run.session->optimizer()->parameters()) {  // away from the start, where some gradients vanish
      std::vector<float> v = tiny::host_copy(*run.engine, p->value);
      for (size_t i = 0; i < v.size(); ++i) v[i] += 0.1f * std::sin(static_cast<float>(i * 7 + p->uid));
      run.engine->upload(v.data(), p->value);
    }
    std::map<std::string, std::vector<float>> gradients;
    run.gradients(tiny::input(), {}, gradients);
    const auto loss = [&] { return run.session->model().evaluate(tiny::input()) / tiny::predicted(tiny::input()); };
    for (const Parameter* p : run.session->optimizer()->parameters()) {
      const std::vector<float> v = tiny::host_copy(*run.engine, p->value), &g = gradients.at(p->name);
      std::vector<float> d(v.size()), w(v.size());
      double slope = 0, size = 0;
      for (size_t i = 0; i < v.size(); ++i) d[i] = std::cos(static_cast<float>(i * 5 + 1)), slope += g[i] * d[i], size += g[i] * g[i];
      const double step = 3e-3;
      double side[2];
      for (int k = 0; k < 2; ++k) {
        for (size_t i = 0; i < v.size(); ++i) w[i] = static_cast<float>(v[i] + (k ? -step : step) * d[i]);
        run.engine->upload(w.data(), p->value);
        side[k] = loss();
      }
      run.engine->upload(v.data(), p->value);
      EXPECT_NEAR(slope, (side[0] - side[1]) / (2 * step), 0.03 * std::fabs(slope) + 0.02 * std::sqrt(size) + 1e-4) << adapter << " " << p->name;
    }
  }
}

// Streams found by inversion, and a backbone that is run a second time, give the gradients of what was kept.
TEST(Adapter, TapsFoundAgainGiveTheGradientsOfTapsKept) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  std::map<std::string, std::vector<float>> kept, rerun;
  tiny::Run a(model, tiny::mix("sgd", {"qst:reduction=2,r=4,output_logit=0"}), {}), b(model, tiny::mix("sgd", {"qst:reduction=2,r=4,output_logit=0,taps=rerun"}), {});
  EXPECT_EQ(a.gradients(tiny::input(), {}, kept), b.gradients(tiny::input(), {}, rerun));
  for (const auto& [name, g] : kept)
    for (size_t i = 0; i < g.size(); ++i) EXPECT_NEAR(g[i], rerun.at(name)[i], 1e-6 + 1e-4 * std::fabs(g[i])) << name;
}

TEST(Adapter, QstWithItsOutputGateOpenIsTheBackbone) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  tiny::Run plain(model, tiny::mix(), {}), open(model, tiny::mix("adamw", {"qst:reduction=2,r=4,output_logit=100"}), {}),
      start(model, tiny::mix("adamw", {"qst:reduction=2,r=4"}), {});
  const double backbone = plain.session->model().evaluate(tiny::input());
  EXPECT_NEAR(open.session->model().evaluate(tiny::input()), backbone, 1e-5 * backbone);
  EXPECT_NEAR(start.session->model().evaluate(tiny::input()), backbone, 5e-3 * backbone);
}

TEST(Adapter, LstAtFullWidthCopiesTheBackbone) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix("adamw", {"lst:reduction_factor=1"}), {});
  std::map<std::string, std::vector<float>> own;
  for (const Parameter& p : run.session->model().parameters()) own[p.name] = tiny::host_copy(*run.engine, p.value);
  int found = 0;
  for (const auto& p : run.set->adapters[0]->parameters) {
    const std::string at = "base_model.model.side.layers.1.block.";
    if (!p->name.starts_with(at)) continue;
    EXPECT_EQ(tiny::host_copy(*run.engine, p->value), own.at("model.layers.1." + p->name.substr(at.size()))) << p->name;
    ++found;
  }
  EXPECT_EQ(found, 9);
}

// Sets every parameter of the run's optimizer whose name ends so.
void assign(tiny::Run& run, const std::string& end, const std::function<float(size_t)>& value) {
  int found = 0;
  for (const Parameter* p : run.session->optimizer()->parameters()) {
    if (!p->name.ends_with(end)) continue;
    std::vector<float> v(static_cast<size_t>(p->value.count()));
    for (size_t i = 0; i < v.size(); ++i) v[i] = value(i);
    run.engine->upload(v.data(), p->value), ++found;
  }
  EXPECT_GT(found, 0) << end;
}

// With its gates at 1 a ladder sees the embedding alone, whatever the backbone's blocks are.
TEST(Adapter, LstWithItsGatesShutDoesNotSeeTheBlocks) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix("adamw", {"lst:reduction_factor=2,init=fresh"}), {});
  const auto loss_of_changed_blocks = [&] {
    const double before = run.session->model().evaluate(tiny::input());
    for (const Parameter& p : run.session->model().parameters()) {
      if (p.name.find(".layers.1.") == std::string::npos || p.value.ndim() != 2) continue;
      std::vector<float> w = tiny::host_copy(*run.engine, p.value);
      for (float& x : w) x *= 1.5f;
      run.engine->upload(w.data(), p.value);
    }
    return std::fabs(run.session->model().evaluate(tiny::input()) - before);
  };
  EXPECT_GT(loss_of_changed_blocks(), 1e-4);
  assign(run, "gate", [](size_t) { return 10.0f; });
  EXPECT_EQ(loss_of_changed_blocks(), 0);
}

// New ranks begin with E = 1e-5, so the function hardly moves while they are given out.
TEST(Adapter, RanksThatAreAddedHardlyChangeTheFunction) {
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, "llama"),
                tiny::mix("sgd", {"increlora:init_r=1,init_warmup=1,incre_interval=1,score_every=1,target_r=3,increment=1,top_h=20,target_modules=all-linear"}), {});
  assign(run, "lora_E", [](size_t i) { return i == 0 ? 0.7f : 1e-5f; });
  const auto ranks = [&] {
    int64_t n = 0;
    for (const Parameter* p : run.session->optimizer()->parameters()) n += p->name.ends_with("lora_E") ? p->value.count() : 0;
    return n;
  };
  const double first = run.session->step(1, 8, {tiny::input()}, 0).loss;
  const int64_t start = ranks();
  for (int64_t s = 2; s <= 8; ++s) EXPECT_NEAR(run.session->step(s, 8, {tiny::input()}, 0).loss, first, 1e-4 * first) << s;
  EXPECT_GT(ranks(), start);
}

// What a reversible network keeps does not grow with its depth, but by its anchors.
TEST(Adapter, MeftKeepsTheSameWhateverTheDepth) {
  const auto activations = [](const char* adapter, int64_t layers) {
    const tiny::Folder folder;
    const Runtime runtime(tiny::catalog(), tiny::mix("sgd", {adapter}));
    ModelSource source = ModelSource::open("preset:9m", 320);
    const_cast<ModelConfig&>(source.config()).layers = layers;
    const_cast<ModelConfig&>(source.config()).window.assign(static_cast<size_t>(layers), 0);
    SessionOptions options;
    options.sequence = 64;
    const MemoryUse use = plan_run(runtime, source, options, {2, 64, false}, kF32);
    return static_cast<double>(use.peak[static_cast<size_t>(Category::kActivations)]);
  };
  EXPECT_NEAR(activations("meft:anchor_every=8", 8), activations("meft", 2), 0.01 * activations("meft", 2));
  const double pair = 2 * sizeof(float) * 2 * 64 * 128;  // both streams of preset:9m, 128 wide, for 2 · 64 tokens
  EXPECT_NEAR(activations("meft", 8) - activations("meft:anchor_every=8", 8), 2 * pair, 0.05 * pair) << "kept before the fourth and the seventh block, as errors of 10^-7 grow tenfold a block and more";
  EXPECT_GT(activations("lora", 8), 1.5 * activations("lora", 2));
  EXPECT_LT(activations("qst:taps=rerun", 8), activations("lora", 8) / 2);
}

// Eight blocks of weight 0.1 turn a rounding of 1e-7 into an error of 1, unless inversion begins anew halfway.
TEST(Adapter, MeftsAnchorsKeepRoundingOutOfItsGradients) {
  const auto gradients = [](const char* adapter) {
    tiny::Run run("preset:60m", tiny::mix("sgd", {adapter}), {});
    std::map<std::string, std::vector<float>> by_name;
    run.gradients(tiny::input(), {}, by_name);
    std::vector<float> all;
    for (const auto& [name, values] : by_name) all.insert(all.end(), values.begin(), values.end());
    return all;
  };
  const std::vector<float> nearly_exact = gradients("meft:anchor_every=1");
  EXPECT_LT(tiny::distance(gradients("meft"), nearly_exact), 1e-3);
  EXPECT_GT(tiny::distance(gradients("meft:anchor_every=8"), nearly_exact), 1e-2);
}

TEST(Adapter, NoNetworkStartsFromWeightsThatAnotherAdapterHolds) {
  const tiny::Folder folder;
  try {
    tiny::Run(tiny::model_folder(folder, "llama"), tiny::mix("adamw", {"sltrain:r=2,sp_ratio=0.1", "lst:reduction_factor=2"}), {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("holds the weight of model.layers.0"), std::string::npos) << e.what();
  }
}

TEST(Adapter, TwoThatRunTheBlocksAreRefused) {
  const tiny::Folder folder;
  EXPECT_THROW(tiny::Run(tiny::model_folder(folder, "llama"), tiny::mix("adamw", {"meft", "qst:reduction=2,r=4"}), {}), Error);
}

TEST(Adapter, ASampleOfAllRowsChangesNothing) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  for (const bool full : {false, true}) {
    const std::vector<std::string> all = full ? std::vector<std::string>{"wta-crs:sample_ratio=1,tune_weights=true,target_modules=all-linear"}
                                              : std::vector<std::string>{"lora:r=4,target_modules=all-linear,lora_dropout=0.2", "wta-crs:sample_ratio=1,target_modules=all-linear"};
    tiny::Run plain(model, full ? tiny::mix("sgd") : tiny::mix("sgd", {all[0]}), {}), sampled(model, tiny::mix("sgd", all), {});
    std::map<std::string, std::vector<float>> a, b;
    plain.gradients(tiny::input(), {}, a), sampled.gradients(tiny::input(), {}, b);
    EXPECT_EQ(a, b);
  }
}

TEST(Adapter, ASampleIsRefusedWhereEveryRowIsNeeded) {
  const tiny::Folder folder;
  try {
    tiny::Run run(tiny::model_folder(folder, "llama"), tiny::mix("adamw", {"sltrain:r=4", "wta-crs"}), {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("every row"), std::string::npos) << e.what();
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
