// Loss and gradients of every model kind against transformers, and of a PEFT adapter against peft.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "core/files/json.h"
#include "core/files/safetensors_writer.h"
#include "hosts/trainer/run/export.h"
#include "hosts/trainer/run/quantized_export.h"
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

// A folder in which a tool left one linear plain: the module is named in the configuration, its weight lies there as it was.
std::string with_a_plain_linear(const std::string& folder, const std::string& module, const std::vector<float>& weight, std::vector<int64_t> shape) {
  const std::string to = folder + "-partly", name = module + ".weight";
  std::filesystem::create_directories(to);
  Json config = read_json_file(folder + "/config.json");
  config["quantization_config"]["llm_int8_skip_modules"] = {"lm_head", module};
  write_json_file(to + "/config.json", config);
  const SafetensorsReader from = SafetensorsReader::open(folder);
  std::vector<TensorSpec> tensors{{name, FileDtype::kF32, std::move(shape)}};
  const auto goes = [&](const TensorEntry& e) { return e.name.starts_with(module + "."); };
  for (const TensorEntry& e : from.tensors())
    if (!goes(e)) tensors.push_back({e.name, e.dtype, e.shape});
  SafetensorsWriter file(to + "/model.safetensors", tensors);
  file.write(name, std::as_bytes(std::span(weight)));
  for (const TensorEntry& e : from.tensors())
    if (!goes(e)) file.write(e.name, from.data(e));
  file.commit();
  return to;
}

TEST(GoldenFolder, LinearsThatAToolLeftPlainStayPlain) {
  for (const char* kind : {"int8", "nf4"}) {
    const std::string name = std::string("llama-") + kind, module = "model.layers.1.mlp.down_proj";
    const tiny::Folder folder;
    std::vector<float> weight = golden::File("models/" + name + "/expected.safetensors").f32("decoded." + module + ".weight");
    for (size_t i = 0; i < weight.size(); ++i) weight[i] += 0.01f * static_cast<float>(i % 7);
    const std::string path = with_a_plain_linear(tiny::model_folder(folder, name), module, weight, {32, 48});
    MixRequest request = tiny::mix();
    request.stored_quantizer = stored_quantizer(tiny::catalog(), path);
    const auto loss = [](tiny::Run& run) { return run.session->model().evaluate(tiny::input()) / tiny::predicted(tiny::input()); };
    tiny::Run decoded(path, request, {});
    request.quantizer = request.stored_quantizer, request.adapters = {"lora:r=2,target_modules=all-linear"};
    tiny::Run held(path, request, {});
    EXPECT_NEAR(loss(held), loss(decoded), 5e-3 * loss(decoded)) << kind;
    size_t coded = 0;
    for (const Linear* l : held.session->model().linears()) coded += l->quantized.has_value();
    EXPECT_EQ(coded, 13u) << kind;
    const auto plain = [&](tiny::Run& run) {
      for (const Linear* l : run.session->model().linears())
        if (l->path == module && l->weight) return tiny::host_copy(*run.engine, l->weight->value);
      return std::vector<float>();
    };
    EXPECT_EQ(plain(held), weight) << kind;
    const MemoryUse planned = plan_run(held.runtime, held.source, {.sequence = 14}, {2, 14, false, 1}, kF32);
    held.session->step(1, 1, {tiny::input()}, 0);
    EXPECT_EQ(held.engine->memory().use().total_peak, planned.total_peak) << kind;

    // Written again in codes it is the same folder, what its configuration says of left modules included.
    const std::string again = folder / "again";
    write_quantized(again, *held.engine, weights_of(*held.session, false), held.source, held.runtime, held.set->techniques, kF32);
    const auto names = [](const std::string& of) {
      const SafetensorsReader reader = SafetensorsReader::open(of);
      std::set<std::string> all;
      for (const TensorEntry& e : reader.tensors()) all.insert(e.name);
      return all;
    };
    EXPECT_EQ(names(again), names(path)) << kind;
    EXPECT_EQ(read_json_file(again + "/config.json").at("quantization_config"), read_json_file(path + "/config.json").at("quantization_config")) << kind;
    tiny::Run back(again, request, {});
    EXPECT_EQ(plain(back), weight) << kind;
    EXPECT_EQ(loss(back), loss(held)) << kind;
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
      if (p.name == name.substr(7)) {
        EXPECT_LE(distance(tiny::host_copy(*merged.engine, p.value), expected_.f32(name)), 1e-6) << name;
      }
  }
}

}  // namespace
}  // namespace tenon::trainer
