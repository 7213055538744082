// An embedding and a head held in codes: --embeddings.
#include <gtest/gtest.h>

#include "core/error.h"
#include "hosts/trainer/run/evaluate.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

using Gradients = std::map<std::string, std::vector<float>>;

MixRequest coded(MixRequest r, const std::string& embeddings) {
  r.embeddings = embeddings;
  return r;
}

double largest_difference(const Gradients& a, const Gradients& b) {
  double worst = 0, size = 0;
  EXPECT_EQ(a.size(), b.size());
  for (const auto& [name, values] : a)
    for (size_t i = 0; i < values.size(); ++i)
      worst = std::max(worst, std::fabs(static_cast<double>(values[i]) - b.at(name)[i])), size = std::max(size, std::fabs(static_cast<double>(values[i])));
  return worst / size;
}

// The type F32 keeps every number, so nothing may change; llama has a head of its own, qwen2's is the embedding.
TEST(Embeddings, InCodesThatLoseNothingAreTheEmbedding) {
  const tiny::Folder folder;
  for (const char* model : {"llama", "qwen2"})
    for (const char* adapter : {"lora:r=4,target_modules=all-linear", "lora:r=4,target_modules=embed_tokens+q_proj"}) {
      const std::string path = tiny::model_folder(folder, model);
      const MixRequest mix = tiny::mix("adamw", {adapter});
      tiny::Run plain(path, mix, {}), held(path, coded(mix, "gguf-blocks:type=F32"), {});
      EXPECT_TRUE(held.session->model().head().quantized && held.session->model().lookup().quantized);
      const HostBatch batch = tiny::input();
      Gradients expected, found;
      const double loss = plain.gradients(batch, {}, expected);
      EXPECT_NEAR(held.gradients(batch, {}, found), loss, 1e-6 * loss) << model << " " << adapter;
      EXPECT_LT(largest_difference(expected, found), 1e-5) << model << " " << adapter;
      MemoryOptions tiles;
      tiles.loss_tile_bytes = 96 * 4 * 5;
      EXPECT_NEAR(held.gradients(batch, tiles, found), loss, 1e-6 * loss) << model << " " << adapter;
      EXPECT_NEAR(held.session->model().evaluate(batch), plain.session->model().evaluate(batch), 1e-4) << model << " " << adapter;
    }
}

// nf4 takes rows of any length, so the tiny model's do.
TEST(Embeddings, InFewBytesTakeFewBytesAsPlanned) {
  const tiny::Folder folder;
  for (const char* model : {"llama", "qwen2"}) {
    const std::string path = tiny::model_folder(folder, model);
    const MixRequest mix = tiny::mix("adamw", {"lora:r=4,target_modules=all-linear"}, "nf4");
    SessionOptions options;
    options.sequence = 14;
    uint64_t weights[2];
    for (const bool held : {false, true}) {
      tiny::Run run(path, coded(mix, held ? "blockwise-8bit:blocksize=64" : ""), options);
      const MemoryUse planned = plan_run(run.runtime, run.source, options, {2, 14, true}, kF32);
      for (int64_t step = 1; step <= 3; ++step) run.session->step(step, 3, {tiny::input()}, 1e-3);
      run.session->model().evaluate(shape_batch(evaluation_rows(14), 14, 96));
      const MemoryUse measured = run.engine->memory().use();
      EXPECT_NEAR(static_cast<double>(planned.total_peak), static_cast<double>(measured.total_peak), 0.03 * static_cast<double>(measured.total_peak)) << model;
      weights[held] = measured.live[static_cast<size_t>(Category::kWeights)];
    }
    const ModelConfig c = ModelSource::open(path, 320).config();
    const uint64_t dense = static_cast<uint64_t>(c.vocab * c.hidden * 4 * (c.tied ? 1 : 2));
    EXPECT_LT(weights[1], weights[0] - dense / 2) << model;
  }
}

TEST(Embeddings, InCodesTrainByNobody) {
  const tiny::Folder folder;
  const std::string path = tiny::model_folder(folder, "llama");
  for (const std::vector<std::string>& adapters : {std::vector<std::string>{}, {"lora:r=4,target_modules=q_proj,modules_to_save=embed_tokens"}}) {
    try {
      tiny::Run(path, coded(tiny::mix("adamw", adapters), "blockwise-8bit"), {});
      FAIL() << "an embedding in codes was to be trained";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), TN_E_CONFLICT);
      EXPECT_NE(std::string(e.what()).find("--embeddings"), std::string::npos) << e.what();
    }
  }
  EXPECT_THROW(tiny::Run(path, coded(tiny::mix("adamw", {"lora"}), "mesa-act8"), {}), Error);  // not a codec of weights
}

}  // namespace
}  // namespace tenon::trainer
