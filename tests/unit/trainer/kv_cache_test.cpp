// Decoding over key-value caches that a codec holds.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "hosts/trainer/run/evaluate.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

constexpr int64_t kTokens = 112;

std::vector<int32_t> ids(int64_t n, uint32_t seed = 1) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(static_cast<int32_t>((i * i * 7 + i * 13 * seed + seed) % 96));
  return out;
}

tiny::Run run_of(const tiny::Folder& folder, const std::string& model, const std::string& cache, tn_dtype compute = kF32) {
  MixRequest m = tiny::mix("");
  m.kv_cache = cache;
  SessionOptions o;
  o.train = false, o.sequence = kTokens;
  for (uint32_t s = 1; s <= 8; ++s) o.kv_calibration.push_back(ids(64, s));
  return tiny::Run(tiny::model_folder(folder, model), m, o, compute);
}

// Logits after a prompt of 80 tokens, and after each of the tokens that follow.
std::vector<std::vector<float>> decode(tiny::Run& run) {
  Model& model = run.session->model();
  const std::vector<int32_t> all = ids(kTokens);
  model.start_cache(kTokens);
  std::vector<std::vector<float>> logits{model.feed({all.begin(), all.begin() + 80})};
  for (int64_t t = 80; t < kTokens; ++t) logits.push_back(model.feed({all[t]}));
  model.end_cache();
  return logits;
}

double distance(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  double error = 0, power = 0;
  for (size_t t = 0; t < a.size(); ++t)
    for (size_t i = 0; i < a[t].size(); ++i) error += std::pow(double{a[t][i]} - b[t][i], 2), power += std::pow(double{b[t][i]}, 2);
  return std::sqrt(error / power);
}

class KvCacheOf : public testing::TestWithParam<const char*> {};

TEST_P(KvCacheOf, FullRankGivesTheSameLogits) {  // at the tokens' own positions, with biases and norms of heads
  const tiny::Folder folder;
  tiny::Run plain = run_of(folder, GetParam(), ""), run = run_of(folder, GetParam(), "cskv:ratio_k=1,ratio_v=1,bits=32,window=8");
  EXPECT_LT(distance(decode(run), decode(plain)), 1e-4);
}

TEST_P(KvCacheOf, AWindowOverEverythingChangesNothing) {
  const tiny::Folder folder;
  tiny::Run plain = run_of(folder, GetParam(), ""), run = run_of(folder, GetParam(), "cskv:ratio_k=0.1,ratio_v=0.1,bits=4,window=200");
  EXPECT_EQ(decode(run), decode(plain));
}

TEST_P(KvCacheOf, FewerChannelsAndBitsComeNear) {
  const tiny::Folder folder;
  tiny::Run plain = run_of(folder, GetParam(), "");
  const auto want = decode(plain);
  const auto error = [&](const char* cache) {
    tiny::Run run = run_of(folder, GetParam(), cache);
    return distance(decode(run), want);
  };
  EXPECT_LT(error("blockwise-8bit:blocksize=64"), 0.01);
  EXPECT_LT(error("cskv:ratio_k=1,ratio_v=1,bits=16"), 0.01);
  EXPECT_LT(error("cskv:ratio_k=1,ratio_v=1,bits=4"), 0.2);
  EXPECT_LT(error("cskv:ratio_k=0.75,ratio_v=0.75,bits=32"), error("cskv:ratio_k=0.25,ratio_v=0.25,bits=32"));
}

INSTANTIATE_TEST_SUITE_P(Models, KvCacheOf, testing::Values("llama", "qwen2", "qwen3"), [](const auto& info) { return std::string(info.param); });

TEST(KvCache, TakesLessMemory) {
  const tiny::Folder folder;
  const auto bytes = [&](const char* cache) {
    tiny::Run run = run_of(folder, "llama", cache, kBF16);
    const uint64_t before = run.engine->memory().use().total_live;
    Model& model = run.session->model();
    model.start_cache(1 << 12);
    for (int64_t at = 0; at < 1 << 12; at += 1 << 10) model.feed(ids(1 << 10));
    return run.engine->memory().use().total_live - before;
  };
  const uint64_t plain = bytes("");
  EXPECT_LT(bytes("blockwise-8bit:blocksize=64"), plain * 6 / 10);
  EXPECT_LT(bytes("cskv:ratio_k=0.25,ratio_v=0.25,bits=16"), plain * 40 / 100);
  EXPECT_LT(bytes("cskv:ratio_k=0.25,ratio_v=0.25,bits=4"), plain * 20 / 100);
}

TEST(KvCache, EvaluationThroughItAgreesWithEvaluation) {
  const tiny::Folder folder;
  tiny::Run plain = run_of(folder, "llama", ""), run = run_of(folder, "llama", "cskv:ratio_k=1,ratio_v=1,bits=32,window=8");
  HostBatch b;
  b.sequences = 1, b.length = 100, b.ids = ids(100), b.labels = ids(101);
  b.labels.erase(b.labels.begin());
  for (int32_t i = 0; i < 100; ++i) b.positions.push_back(i);
  const double want = plain.session->model().evaluate(b);
  double got = 0;
  Model& model = run.session->model();
  model.start_cache(100);
  for (int64_t at = 0; at < 100; at += 16) {
    const int64_t end = std::min<int64_t>(at + 16, 100);
    got += model.score({b.ids.begin() + at, b.ids.begin() + end}, {b.labels.begin() + at, b.labels.begin() + end});
  }
  EXPECT_NEAR(got, want, 1e-4 * want);
}

TEST(KvCache, IsRefusedWhereItCannotBe) {
  const tiny::Folder folder;
  const auto refusal = [&](MixRequest m, SessionOptions o) -> std::string {
    m.device = "onednn";
    o.train = false, o.sequence = 64;
    try {
      const tiny::Run run(tiny::model_folder(folder, "llama"), m, o);
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  };
  MixRequest m = tiny::mix("");
  m.kv_cache = "cskv";
  EXPECT_NE(refusal(m, {}).find("--calibration"), std::string::npos);
  m.kv_cache = "nf4";
  EXPECT_NE(refusal(m, {}).find("cskv"), std::string::npos);
  m.kv_cache = "cskv:fit=plain", m.adapters = {"lora:target_modules=k_proj"};
  EXPECT_NE(refusal(m, {}).find("merge"), std::string::npos);
}

}  // namespace
}  // namespace tenon::trainer
