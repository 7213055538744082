// Adapter arithmetic against peft's add_weighted_adapter.
#include <nlohmann/json.hpp>

#include "sdk/testing/adapter.h"
#include "tenon/combine.h"
#include "tests/reference/golden.h"

namespace tenon::lora::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;
using Json = nlohmann::json;

constexpr const char* kKeys[4] = {"layer.A", "layer.B", "emb.A", "emb.B"};
constexpr const char* kFileKeys[4] = {"base_model.model.layer.lora_A.weight", "base_model.model.layer.lora_B.weight",
                                      "base_model.model.emb.lora_embedding_A", "base_model.model.emb.lora_embedding_B"};

// An adapter's file in memory.
struct Part {
  std::string config;
  double weight;
  std::vector<const char*> keys;
  std::vector<Tensor> tensors;
  std::vector<const tn_tensor*> pointers;
  tn_combine_source source;

  const tn_combine_source* get() {
    pointers.clear();
    for (Tensor& t : tensors) pointers.push_back(t.get());
    source = {sizeof source, 0, weight, config.c_str(), keys.size(), keys.data(), pointers.data()};
    return &source;
  }
};

class LoraCombine : public ::testing::TestWithParam<std::string> {
 protected:
  const golden::File file_{"lora/combined.safetensors"};
  std::map<std::string, std::vector<float>> result_;
  std::map<std::string, std::vector<int64_t>> shapes_;
  Json config_;

  std::vector<Part> parts(const std::vector<std::string>& names) const {
    const Json settings = file_.setting("settings"), weights = file_.setting("weights");
    std::vector<Part> out;
    for (const std::string& name : names) {
      Json config = settings[name];
      config["peft_type"] = "LORA", config["target_modules"] = {"layer", "emb"};
      Part& p = out.emplace_back(Part{config.dump(), weights[name], {}, {}, {}, {}});
      for (int i = 0; i < 4; ++i) {
        const std::string key = name + "." + kKeys[i];
        p.keys.push_back(kFileKeys[i]);
        p.tensors.emplace_back(kF32, file_.shape(key), file_.f32(key));
      }
    }
    return out;
  }

  int32_t combine(const std::string& method, int64_t rank, std::vector<Part> in) {
    TestAdapter lora(GetParam(), {});
    const auto* table = static_cast<const tn_combine*>(lora.plugin.get_extension(TN_EXT_COMBINE));
    std::vector<const tn_combine_source*> sources;
    for (Part& p : in) sources.push_back(p.get());
    std::string text;
    const tn_sink sink{sizeof sink, 0, &text, [](void* self, const void* data, uint64_t n) -> int32_t {
                         static_cast<std::string*>(self)->append(static_cast<const char*>(data), n);
                         return TN_OK;
                       }};
    const auto put = [](void* self, const char* key, const tn_tensor* t) -> int32_t {
      auto& me = *static_cast<LoraCombine*>(self);
      me.shapes_[key] = {t->shape, t->shape + t->ndim};
      me.result_[key].assign(sdk::data<const float>(*t), sdk::data<const float>(*t) + sdk::count(*t));
      return TN_OK;
    };
    const int32_t status = table->combine(lora.host.get(), method.c_str(), rank, sources.data(), sources.size(), this, put, &sink);
    error_ = lora.host.error;
    if (status == TN_OK) config_ = Json::parse(text);
    return status;
  }

  // B · A of a pair of factors, row-major [m, n].
  static std::vector<float> delta(const std::vector<float>& a, const std::vector<float>& b, int64_t rank) {
    const int64_t n = static_cast<int64_t>(a.size()) / rank, m = static_cast<int64_t>(b.size()) / rank;
    std::vector<float> out(static_cast<size_t>(m * n));
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < rank; ++k) sum += double{b[i * rank + k]} * a[k * n + j];
        out[i * n + j] = static_cast<float>(sum);
      }
    return out;
  }

  std::string error_;
};
INSTANTIATE_TEST_SUITE_P(Cpu, LoraCombine, ::testing::ValuesIn(plugin_objects()), [](const auto& p) { return object_label(p.param); });

TEST_P(LoraCombine, SumsAndStacksOfFactorsAreThoseOfPeft) {
  const std::pair<const char*, std::vector<std::string>> cases[] = {{"linear", {"first", "second"}}, {"cat", {"first", "second", "third"}}};
  for (const auto& [method, names] : cases) {
    ASSERT_EQ(combine(method, 0, parts(names)), TN_OK) << error_;
    for (int i = 0; i < 4; ++i) {
      const std::string want = std::string(method) + "." + kKeys[i];
      EXPECT_EQ(shapes_[kFileKeys[i]], file_.shape(want)) << want;
      EXPECT_LT(relative_distance(result_[kFileKeys[i]], file_.f32(want)), 1e-6) << want;
    }
    EXPECT_EQ(config_["r"], method == std::string("cat") ? 8 : 3);
    EXPECT_EQ(config_["lora_alpha"], config_["r"]);
    EXPECT_EQ(config_["use_rslora"], false);
  }
}

TEST_P(LoraCombine, SvdIsTheNearestOfItsRank) {
  ASSERT_EQ(combine("svd", 2, parts({"first", "second", "third"})), TN_OK) << error_;
  EXPECT_EQ(config_["r"], 2);
  for (const char* module : {"layer", "emb"}) {
    const int at = module == std::string("layer") ? 0 : 2;
    const std::vector<float>& a = result_[kFileKeys[at]];
    const std::string name = std::string("svd.") + module;
    EXPECT_LT(relative_distance(delta(a, result_[kFileKeys[at + 1]], 2), delta(file_.f32(name + ".A"), file_.f32(name + ".B"), 2)), 1e-5) << module;
    // The rows of A are orthonormal; signs of singular vectors are free.
    const size_t n = a.size() / 2;
    double aa = 0, ab = 0;
    for (size_t j = 0; j < n; ++j) aa += double{a[j]} * a[j], ab += double{a[j]} * a[n + j];
    EXPECT_NEAR(aa, 1, 1e-5);
    EXPECT_NEAR(ab, 0, 1e-5);
  }
  // A rank that holds everything is exact, and none asked for is the largest that goes in.
  ASSERT_EQ(combine("svd", 8, parts({"first", "second", "third"})), TN_OK);
  EXPECT_LT(relative_distance(delta(result_[kFileKeys[0]], result_[kFileKeys[1]], 8), delta(file_.f32("cat.layer.A"), file_.f32("cat.layer.B"), 8)), 1e-5);
  ASSERT_EQ(combine("svd", 0, parts({"first", "third"})), TN_OK);
  EXPECT_EQ(config_["r"], 3);
}

TEST_P(LoraCombine, RefusesWhatHasNoSum) {
  EXPECT_EQ(combine("linear", 0, parts({"first", "third"})), TN_E_UNSUPPORTED);
  EXPECT_NE(error_.find("use cat or svd"), std::string::npos) << error_;
  EXPECT_EQ(combine("ties", 0, parts({"first"})), TN_E_ARGUMENT);
  EXPECT_NE(error_.find("ties"), std::string::npos);
  EXPECT_EQ(combine("cat", 4, parts({"first"})), TN_E_ARGUMENT);
  std::vector<Part> broken = parts({"first", "second"});
  broken[1].keys.resize(1), broken[1].tensors.erase(broken[1].tensors.begin() + 1, broken[1].tensors.end());
  EXPECT_EQ(combine("cat", 0, std::move(broken)), TN_E_NOT_FOUND);
  EXPECT_NE(error_.find("lora_B.weight"), std::string::npos) << error_;
  broken = parts({"first", "second"});
  broken[1].tensors[0] = Tensor(kF32, {3, 6}, std::vector<float>(18));
  EXPECT_EQ(combine("cat", 0, std::move(broken)), TN_E_FORMAT);
  EXPECT_NE(error_.find("different models"), std::string::npos) << error_;
}

}  // namespace
}  // namespace tenon::lora::testing
