// Loss and gradients of every model kind against transformers, and of a PEFT adapter against peft.
#include <gtest/gtest.h>

#include <cmath>

#include "hosts/trainer/run/export.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

struct Case {
  const char *model, *config;
};

class GoldenModel : public testing::TestWithParam<Case> {};

// expected-CONFIG: the loss, and of each gradient its sum, 2-norm, product with a fixed noise and largest magnitude.
TEST_P(GoldenModel, LossAndGradientsAreThoseOfTransformers) {
  const auto [model, config] = GetParam();
  const tiny::Folder folder;
  tiny::Run run(tiny::model_folder(folder, model, config), tiny::mix(), {});
  const golden::File expected(std::string("models/") + model + "/expected-" + config + ".safetensors");
  std::map<std::string, std::vector<float>> gradients;
  const double loss = run.gradients(tiny::input(), {}, gradients);
  EXPECT_NEAR(loss, expected.f32("loss")[0], 2e-5 * expected.f32("loss")[0]);
  const auto order = expected.setting("order");
  ASSERT_EQ(gradients.size(), order.size());
  for (size_t k = 0; k < order.size(); ++k) {
    const std::string name = order[k];
    ASSERT_TRUE(gradients.contains(name)) << name;
    const std::vector<float>& g = gradients[name];
    double norm = 0, product = 0, largest = 0;
    for (size_t i = 0; i < g.size(); ++i) {
      norm += static_cast<double>(g[i]) * g[i];
      product += static_cast<double>(g[i]) * golden::noise(static_cast<uint32_t>(2000 + k), i);
      largest = std::max(largest, std::abs(static_cast<double>(g[i])));
    }
    norm = std::sqrt(norm);
    const std::vector<float> f = expected.f32("fingerprint." + name);
    EXPECT_NEAR(norm, f[1], 2e-4 * f[1] + 1e-7) << name;
    EXPECT_NEAR(product, f[2], 5e-4 * f[1] + 1e-7) << name;
    EXPECT_NEAR(largest, f[3], 5e-4 * f[3] + 1e-7) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenModel,
                         testing::Values(Case{"llama", "config"}, Case{"llama", "config-newer"}, Case{"llama", "config-linear"},
                                         Case{"llama", "config-dynamic"}, Case{"llama", "config-llama3"}, Case{"llama", "config-llama3-newer"},
                                         Case{"llama2", "config"}, Case{"mistral", "config"}, Case{"qwen2", "config"}, Case{"qwen3", "config"}));

// Folders that transformers wrote with bitsandbytes' weights in 8 and in 4 bits.
TEST(GoldenFolder, CodesOfBitsandbytesAreDecoded) {
  for (const char* kind : {"int8", "nf4"}) {
    const std::string name = std::string("llama-") + kind;
    const tiny::Folder folder;
    const std::string path = tiny::model_folder(folder, name);
    MixRequest request = tiny::mix();
    request.stored_quantizer = stored_quantizer(tiny::catalog(), path);
    tiny::Run run(path, request, {});
    const golden::File expected("models/" + name + "/expected.safetensors");
    EXPECT_NEAR(run.session->model().evaluate(tiny::input()) / tiny::predicted(tiny::input()), expected.f32("loss")[0], 1e-5 * expected.f32("loss")[0]) << kind;
    const std::vector<float> want = expected.f32("decoded.model.layers.1.mlp.down_proj.weight");
    for (const Parameter& p : run.session->model().parameters()) {
      if (p.name != "model.layers.1.mlp.down_proj.weight") continue;
      const std::vector<float> got = tiny::host_copy(*run.engine, p.value);
      ASSERT_EQ(got.size(), want.size());
      for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-6 * std::abs(want[i]));
    }
    // Taken over as they are, under an adapter.
    request.quantizer = request.stored_quantizer, request.adapters = {"lora:r=2"};
    tiny::Run coded(path, request, {});
    EXPECT_NEAR(coded.session->model().evaluate(tiny::input()) / tiny::predicted(tiny::input()), expected.f32("loss")[0], 5e-3 * expected.f32("loss")[0]) << kind;
  }
}

struct AdapterCase {
  const char *name, *model, *folder, *expected;
};

class GoldenAdapter : public testing::TestWithParam<AdapterCase> {
 protected:
  // Loads the adapter into the model with the values that peft wrote.
  std::unique_ptr<tiny::Run> load() const {
    MixRequest request = tiny::mix("adamw", {"lora"});
    request.adapter_from = {golden::path(GetParam().folder)};
    auto run = std::make_unique<tiny::Run>(tiny::model_folder(folder_, GetParam().model), request, SessionOptions{});
    read_adapter(*run->session, *run->set->techniques.adapters[0], request.adapter_from[0]);
    return run;
  }
  const tiny::Folder folder_;
  const golden::File expected_{std::string("lora/") + GetParam().expected + ".safetensors"};
};
INSTANTIATE_TEST_SUITE_P(Adapters, GoldenAdapter,
                         testing::Values(AdapterCase{"linears", "llama", "lora/adapter", "expected"},
                                         AdapterCase{"embedding", "llama", "lora/embedding-llama", "embedding-llama"},
                                         AdapterCase{"tied_embedding", "qwen2", "lora/embedding-qwen2", "embedding-qwen2"}),
                         [](const auto& info) { return std::string(info.param.name); });

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) difference += std::pow(a[i] - b[i], 2), norm += std::pow(b[i], 2);
  return std::sqrt(difference) / (std::sqrt(norm) + 1e-4);
}

TEST_P(GoldenAdapter, LossAndGradientsAreThoseOfPeft) {
  const auto run = load();
  std::map<std::string, std::vector<float>> gradients;
  const double loss = run->gradients(tiny::input(), {}, gradients);
  EXPECT_NEAR(loss, expected_.f32("loss")[0], 2e-5 * expected_.f32("loss")[0]);
  ASSERT_FALSE(gradients.empty());
  for (const auto& [key, g] : gradients) {
    const std::vector<float> want = expected_.f32("grad." + key);
    ASSERT_EQ(g.size(), want.size()) << key;
    EXPECT_LE(distance(g, want), 2e-4) << key;
  }
}

TEST_P(GoldenAdapter, MergesAsPeftDoes) {
  const auto run = load();
  const std::string to = folder_ / "merged";
  std::filesystem::create_directories(to);
  write_model(to, *run->session, run->source, kF32, true);
  tiny::Run merged(to, tiny::mix(), {});
  EXPECT_NEAR(merged.session->model().evaluate(tiny::input()) / tiny::predicted(tiny::input()), expected_.f32("loss")[0], 2e-5 * expected_.f32("loss")[0]);
  for (const std::string& name : expected_.names()) {
    if (!name.starts_with("merged.")) continue;
    for (const Parameter& p : merged.session->model().parameters())
      if (p.name == name.substr(7)) EXPECT_LE(distance(tiny::host_copy(*merged.engine, p.value), expected_.f32(name)), 1e-6) << name;
  }
}

}  // namespace
}  // namespace tenon::trainer
