// bitsandbytes' tensors of a weight in 8 bits: what transformers saved is read, and what is written is what it would have saved.
#include "sdk/testing/layout.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "sdk/testing/codec.h"
#include "tests/reference/golden.h"

namespace tenon::llm_int8 {
namespace {

using namespace sdk::testing;

constexpr const char* kModule = "model.layers.1.mlp.down_proj";

class LlmInt8Layout : public ::testing::TestWithParam<std::string> {
 protected:
  const golden::File model_{"models/llama-int8/model.safetensors"}, expected_{"models/llama-int8/expected.safetensors"};
  const std::string name_ = std::string(kModule) + ".weight";
  const tn_target target_ = make_target(model_.shape(name_), sdk::kF32, name_.c_str());

  External saved() const {
    External e;
    e.set("", sdk::kI8, model_.shape(name_), model_.i8(name_).data());
    e.set("../SCB", sdk::kF32, model_.shape(std::string(kModule) + ".SCB"), model_.f32(std::string(kModule) + ".SCB").data());
    e.set("../weight_format", sdk::kU8, {}, model_.u8(std::string(kModule) + ".weight_format").data());
    return e;
  }
  int32_t read(TestCodec& codec, External& from, Coded& to) const {
    return layout_of(codec).from_external(codec.self, "bitsandbytes", &target_, &from, External::get, to.pointers().data());
  }
};
INSTANTIATE_TEST_SUITE_P(Objects, LlmInt8Layout, ::testing::ValuesIn(plugin_objects()), [](const auto& info) { return object_label(info.param); });

TEST_P(LlmInt8Layout, ReadsAndWritesWhatTheLibrarySaves) {
  External theirs = saved(), ours;
  TestCodec codec(GetParam());
  Coded coded = codec.plan(target_);
  codec.expect(read(codec, theirs, coded));
  const std::vector<float> want = expected_.f32("decoded." + name_), got = codec.decode(target_, coded);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-6f * std::fabs(want[i]));
  codec.expect(layout_of(codec).to_external(codec.self, "bitsandbytes", &target_, coded.pointers().data(), &ours, External::put));
  ASSERT_EQ(ours.tensors.size(), theirs.tensors.size());
  for (const auto& [suffix, tensor] : theirs.tensors) {
    ASSERT_TRUE(ours.tensors.contains(suffix)) << suffix;
    EXPECT_EQ(ours.tensors.at(suffix).raw(), tensor.raw()) << suffix;
    EXPECT_EQ(ours.tensors.at(suffix).get()->ndim, tensor.get()->ndim) << suffix;
  }
}

TEST_P(LlmInt8Layout, DamagedTensorsAreRefusedByName) {
  const auto refused = [&](auto&& edit, const std::string& word) {
    External e = saved();
    edit(e);
    TestCodec codec(GetParam());
    Coded coded = codec.plan(target_);
    EXPECT_EQ(read(codec, e, coded), TN_E_FORMAT);
    EXPECT_NE(codec.host.error.find(word), std::string::npos) << codec.host.error;
    EXPECT_NE(codec.host.error.find(kModule), std::string::npos) << codec.host.error;
  };
  refused([](External& e) { e.tensors.erase(""); }, "no such tensor");
  refused([](External& e) { e.tensors.erase("../SCB"); }, "SCB");
  refused([](External& e) { e.set("../SCB", sdk::kF32, {3}, std::vector<float>(3).data()); }, "3 elements");
  refused([](External& e) { e.tensors.at("../SCB").as<float>()[5] = -1; }, "row 5");
  refused([](External& e) { e.tensors.at("../SCB").as<float>()[0] = NAN; }, "row 0");
  refused([](External& e) { *e.tensors.at("../weight_format").as<uint8_t>() = 2; }, "order");
  refused([&](External& e) { e.set("", sdk::kU8, model_.shape(name_), model_.i8(name_).data()); }, "type");
}

TEST_P(LlmInt8Layout, QuantizationConfigGoesOutAndComesBack) {
  std::string text;
  const tn_sink sink{sizeof sink, 0, &text, [](void* self, const void* data, uint64_t n) -> int32_t {
                       static_cast<std::string*>(self)->append(static_cast<const char*>(data), n);
                       return TN_OK;
                     }};
  const auto taken = [&] { return std::exchange(text, std::string()); };
  TestCodec codec(GetParam(), {{"threshold", "4.5"}});
  codec.expect(layout_of(codec).write_config(codec.self, "bitsandbytes", &sink));
  const std::string written = taken();
  codec.expect(layout_of(codec).read_config(codec.host.get(), "bitsandbytes", written.c_str(), &sink));
  EXPECT_EQ(taken(), "threshold=4.5");
  const nlohmann::json theirs = nlohmann::json::parse(std::ifstream(golden::path("models/llama-int8/config.json")));
  codec.expect(layout_of(codec).read_config(codec.host.get(), "bitsandbytes", theirs.at("quantization_config").dump().c_str(), &sink));
  EXPECT_EQ(taken(), "threshold=6.0");
  codec.expect(layout_of(codec).read_config(codec.host.get(), "bitsandbytes", R"({"load_in_8bit": true, "llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp"]})", &sink));
  EXPECT_EQ(taken(), "threshold=6");
  for (const char* bad : {"", "[]", "{}", R"({"load_in_4bit": true})", R"({"load_in_8bit": true, "llm_int8_threshold": "x"})",
                          R"({"load_in_8bit": true, "llm_int8_has_fp16_weight": true})"}) {
    codec.host.error.clear();
    EXPECT_LT(layout_of(codec).read_config(codec.host.get(), "bitsandbytes", bad, &sink), 0) << bad;
    EXPECT_FALSE(codec.host.error.empty()) << bad;
    EXPECT_EQ(taken(), "") << bad;
  }
}

}  // namespace
}  // namespace tenon::llm_int8
