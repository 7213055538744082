// Figures about memory that papers publish, from the forecast of runs in the papers' shapes. Nothing here is allocated.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

struct Shape {
  int64_t sequence, batch = 1;
  tn_dtype dtype = kBF16;
  Checkpointing checkpointing = Checkpointing::kNone;
};

MemoryUse plan(const std::string& preset, const MixRequest& mix, const Shape& shape) {
  const Runtime runtime(tiny::catalog(), mix);
  const ModelSource source = ModelSource::open(preset, 32000);
  SessionOptions options;
  options.sequence = shape.sequence, options.storage = shape.dtype, options.memory.checkpointing = shape.checkpointing;
  options.memory.loss_tile_bytes = INT64_MAX;  // papers count whole logits
  return plan_run(runtime, source, options, {shape.batch, shape.sequence, false}, shape.dtype);
}
double bytes(const MemoryUse& use, Category c) { return static_cast<double>(use.peak[static_cast<size_t>(c)]); }

// SLTrain's tables (Han et al. 2024): millions of parameters, and the memory of parameters and Adam's moments, all in bf16 but for indices of 8
// bytes. Ours are f32 with indices of 4 bytes, so numbers are counted here and weighed as theirs.
TEST(Published, SlTrainsParametersAndMemory) {
  struct Row {
    const char *preset, *rank;
    double hidden, blocks;                        // for what stays dense: embedding, head, norms
    double full_million, full_gb, million, gb;
  };
  for (const Row& row : {Row{"preset:60m", "128", 512, 8, 58, 0.35, 44, 0.26}, Row{"preset:130m", "256", 768, 12, 134, 0.81, 97, 0.60},
                         Row{"preset:350m", "256", 1024, 24, 368, 2.21, 194, 1.24}, Row{"preset:1b", "512", 2048, 24, 1339, 8.04, 646, 4.16}}) {
    const MemoryUse full = plan(row.preset, tiny::mix("adamw"), {16}),
                    sparse = plan(row.preset, tiny::mix("adamw", {std::string("sltrain:sp_ratio=0.03,r=") + row.rank}), {16});
    // AdamW has two numbers of 4 bytes for each that trains; the adapter's memory has its values and the columns of the sparse ones.
    const double all = bytes(full, Category::kOptimizerState) / 8, trained = bytes(sparse, Category::kOptimizerState) / 8,
                 dense = 2 * 32000 * row.hidden + (2 * row.blocks + 1) * row.hidden, indices = bytes(sparse, Category::kAdapter) / 4 - (trained - dense);
    EXPECT_NEAR(all / 1e6, row.full_million, 0.6) << row.preset;
    EXPECT_NEAR(6 * all / 1e9, row.full_gb, 0.007) << row.preset;
    EXPECT_NEAR(trained / 1e6, row.million, 0.6) << row.preset;
    EXPECT_NEAR((6 * trained + 8 * indices) / 1e9, row.gb, 0.008) << row.preset;
    EXPECT_NEAR(indices, 0.03 * (all - dense), 1e-3 * indices) << row.preset;
  }
}

// WTA-CRS (Liu et al. 2023): of the T rows of a linear's input a share k/T waits for the product dYᵀ X. q, k and v read one input, and so do gate and
// up; beside each number's bytes a row has an index of 4.
TEST(Published, WtaCrsKeepsItsShareOfTheRows) {
  constexpr int64_t kRows = 1000, kHidden = 512, kMlp = 1376, kBlocks = 8;
  const auto activations = [&](const char* share) {
    return bytes(plan("preset:60m", tiny::mix("sgd", {"lora:r=4,target_modules=all-linear", std::string("wta-crs:target_modules=all-linear,sample_ratio=") + share}), {kRows}),
                 Category::kActivations);
  };
  const double least = activations("0.1");
  for (const auto& [share, kept] : {std::pair<const char*, double>{"0.3", 0.3}, std::pair<const char*, double>{"0.6", 0.6}}) {
    const double whole = kBlocks * kRows * 2.0 * (3 * kHidden + kMlp), index = kBlocks * kRows * 4.0 * 4;
    EXPECT_NEAR((activations(share) - least) / (whole + index), kept - 0.1, 1e-3) << share;
  }
}

// GaLore (Zhao et al. 2024) on Llama 7B at rank 1024. Its 82.5 % come out where every number, of projectors and moments alike, is counted as one byte and
// Adam's as two. The method's code has projectors in the gradient's type and a scale for each block of codes, and so have we.
TEST(Published, GaLoresStates) {
  const auto states = [](const char* optimizer) { return bytes(plan("preset:7b", tiny::mix(optimizer), {16}), Category::kOptimizerState); };
  const double adam = states("adamw") / 4, galore = states("galore:rank=1024") / 4;  // numbers
  EXPECT_NEAR(1 - galore / adam, 0.651, 1e-3);
  EXPECT_NEAR(1 - galore / (2 * adam), 0.825, 1e-3);
  EXPECT_NEAR(1 - states("galore:rank=1024,state_bits=8,proj_dtype=bf16,embed_f32=false") / (2 * adam), 0.788, 1e-3);
}

// MEFT (Liao et al. 2023): 84 % less memory for activations than full tuning; and less still without the pairs that keep rounding out of it.
TEST(Published, MeftsActivations) {
  const Shape shape{512, 16, kF32};
  const double full = bytes(plan("preset:350m", tiny::mix("adamw"), shape), Category::kActivations);
  EXPECT_NEAR(1 - bytes(plan("preset:350m", tiny::mix("adamw", {"meft"}), shape), Category::kActivations) / full, 0.84, 0.02);
  EXPECT_GT(1 - bytes(plan("preset:350m", tiny::mix("adamw", {"meft:anchor_every=1000"}), shape), Category::kActivations) / full, 0.86);
}

// LST (Sung et al. 2022) on a model of T5-base's size and 100 sentences: 69 % less memory than full tuning, where methods with gradients through the backbone
// save 26 %.
TEST(Published, LstsMemory) {
  const Shape shape{128, 100, kF32};
  const auto total = [&](const std::vector<std::string>& adapters) { return static_cast<double>(plan("preset:250m", tiny::mix("adamw", adapters), shape).total_peak); };
  const double full = total({});
  EXPECT_GT(1 - total({"lst"}) / full, 0.65);
  EXPECT_LT(1 - total({"lora:r=16,target_modules=all-linear"}) / full, 0.26);
}

// QST (Zhang et al. 2024) on Llama 7B over 4 bits: a 2.3th of the memory of LoRA over 4 bits, a 7th of full tuning's.
TEST(Published, QstsMemory) {
  const Shape shape{384, 16};
  const auto total = [&](const MixRequest& mix) { return static_cast<double>(plan("preset:7b", mix, shape).total_peak); };
  const double side = total(tiny::mix("adamw", {"qst"}, "nf4"));
  EXPECT_GT(total(tiny::mix("adamw", {"lora:r=16,target_modules=all-linear"}, "nf4")) / side, 2.3);
  EXPECT_GT(total(tiny::mix("adamw")) / side, 7);
}

// LR-QAT (Bondarenko et al. 2024): a model of 7 billion trains within 24 GB, where its activations are computed again.
TEST(Published, LrQatTrainsSevenBillionWithin24GB) {
  const MemoryUse use = plan("preset:7b", tiny::mix("adamw", {"lr-qat"}), {1024, 1, kBF16, Checkpointing::kBlock});
  EXPECT_LT(use.total_peak, 24e9);
  EXPECT_GT(bytes(use, Category::kAdapter), 32 * (4.0 * 4096 * 4096 + 3.0 * 4096 * 11008));  // a byte a weight, and the factors
}

// QLoRA (Dettmers et al. 2023): 4.127 bits a weight of the linears, where scales are coded too; what stays dense in bf16.
TEST(Published, QLorasWeights) {
  const double linears = 32 * (4.0 * 4096 * 4096 + 3.0 * 4096 * 11008), dense = 2.0 * 32000 * 4096 + 65.0 * 4096;
  const MemoryUse use = plan("preset:7b", tiny::mix("adamw", {"lora:r=64,target_modules=all-linear"}, "nf4:double_quant=true"), {16});
  EXPECT_NEAR(bytes(use, Category::kWeights), linears * 4.127 / 8 + 2 * dense, 2e-3 * bytes(use, Category::kWeights));
}

}  // namespace
}  // namespace tenon::trainer
