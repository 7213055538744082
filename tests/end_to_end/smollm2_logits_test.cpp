// The logits of SmolLM2 against transformers in f32 (tests/reference/smollm2.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "hosts/trainer/run/features.h"
#include "hosts/trainer/run/inference.h"

namespace tenon::trainer {
namespace {

std::string model_path;

TEST(SmolLM2, LogitsAreThoseOfTransformers) {
  std::ifstream in(TENON_SOURCE_DIR "/tests/reference/data/models/smollm2.json");
  const auto golden = nlohmann::json::parse(in);
  const Catalog catalog({std::string(TENON_BINARY_DIR) + "/lib/tenon"});
  MixRequest request;
  request.device = "onednn";
  Runtime runtime(catalog, request);
  const ModelSource source = ModelSource::open(model_path, 0);
  Inference inference(runtime, source, kF32, 64, 0);
  inference.model().start_cache(64);
  const std::vector<float> logits = inference.model().feed(golden["prompt_ids"].get<std::vector<int32_t>>());
  ASSERT_EQ(logits.size(), 49152u);

  double norm = 0;
  for (const float x : logits) norm += double{x} * x;
  EXPECT_NEAR(std::sqrt(norm), golden["logit_norm"].get<double>(), 1e-4 * golden["logit_norm"].get<double>());
  for (size_t i = 0; i < golden["logit_ids"].size(); ++i) {
    const float want = golden["logits"][i];
    EXPECT_NEAR(logits[golden["logit_ids"][i].get<size_t>()], want, 5e-3) << "token " << golden["logit_ids"][i];
  }
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + 10, order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  order.resize(10);
  EXPECT_EQ(order, golden["top10_ids"].get<std::vector<int32_t>>());
}

}  // namespace
}  // namespace tenon::trainer

// smollm2_logits_test MODEL.gguf: exit 77 (skipped) where there is no such file.
int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc != 2 || !std::filesystem::exists(argv[1])) {
    std::puts("skipped: the model is not there and could not be fetched");
    return 77;
  }
  tenon::trainer::model_path = argv[1];
  return RUN_ALL_TESTS();
}
