// LoRA against the reference implementation's numbers and files.
#include "sdk/testing/adapter.h"
#include "tests/reference/golden.h"

namespace tenon::lora::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

class LoraGolden : public ::testing::TestWithParam<std::string> {
 protected:
  const golden::File file_{"lora/linear.safetensors"};
  Base base() const { return {5, 7, file_.f32("weight"), file_.f32("bias"), 0, {}}; }
  TestAdapter::Options options(int64_t r, const nlohmann::json& s) const {
    return {{"r", std::to_string(r)},
            {"lora_alpha", s["lora_alpha"].dump()},
            {"use_rslora", s.value("use_rslora", false) ? "true" : "false"}};
  }
};
INSTANTIATE_TEST_SUITE_P(Cpu, LoraGolden, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

TEST_P(LoraGolden, OneLinearEqualsPeft) {
  const nlohmann::json settings = file_.setting("settings");
  for (const std::string label : {"plain", "rslora", "rank1", "wide_rank"}) {
    SCOPED_TRACE(label);
    TestAdapter lora(GetParam(), options(settings[label]["r"], settings[label]));
    ASSERT_EQ(lora.bind({{"layer.q_proj", 5, 7}}), TN_OK);
    lora.params[0].value.assign(file_.f32(label + ".A")), lora.params[1].value.assign(file_.f32(label + ".B"));
    Base below = base();
    Tensor x(kF32, {3, 7}, file_.f32("x")), dy(kF32, {3, 5}, file_.f32("dy")), y(kF32, {3, 5}), dx(kF32, {3, 7});
    SavedSlots saved;
    lora.forward(0, below, *x.get(), y.get(), saved);
    lora.backward(0, below, *dy.get(), dx.get(), saved);
    EXPECT_LT(relative_distance(y.floats(), file_.f32(label + ".y")), 1e-6);
    EXPECT_LT(relative_distance(dx.floats(), file_.f32(label + ".dx")), 1e-6);
    EXPECT_LT(relative_distance(lora.params[0].grad.floats(), file_.f32(label + ".dA")), 1e-6);
    EXPECT_LT(relative_distance(lora.params[1].grad.floats(), file_.f32(label + ".dB")), 1e-6);
    Tensor w(kF32, {5, 7}, file_.f32("weight"));
    ASSERT_EQ(lora.merge(0, 0, 5, *w.get()), TN_OK);
    EXPECT_LT(relative_distance(w.floats(), file_.f32(label + ".merged")), 1e-6);
  }
}

TEST_P(LoraGolden, TwoAdaptersOfOneLinearAdd) {
  const nlohmann::json settings = file_.setting("settings");
  TestAdapter first(GetParam(), options(4, settings["plain"])), second(GetParam(), options(2, settings["rslora"]));
  for (TestAdapter* lora : {&first, &second}) ASSERT_EQ(lora->bind({{"layer.q_proj", 5, 7}}), TN_OK);
  first.params[0].value.assign(file_.f32("two.A_first")), first.params[1].value.assign(file_.f32("two.B_first"));
  second.params[0].value.assign(file_.f32("two.A_second")), second.params[1].value.assign(file_.f32("two.B_second"));
  Base weight = base(), adapted = base();
  SavedSlots saved, below;
  adapted.instead = [&](const tn_tensor& x, tn_tensor& y) { first.forward(0, weight, x, &y, below); };
  Tensor x(kF32, {3, 7}, file_.f32("x")), y(kF32, {3, 5});
  second.forward(0, adapted, *x.get(), y.get(), saved);
  EXPECT_LT(relative_distance(y.floats(), file_.f32("two.y")), 1e-6);
}

// A folder that PEFT wrote, with rank and alpha patterns and an exclusion: every tensor of its file has its parameter,
// and no other.
TEST_P(LoraGolden, PeftsAdapterFileHasExactlyTheParametersDeclared) {
  std::ifstream in(golden::path("lora/adapter/adapter_config.json"));
  const std::string text(std::istreambuf_iterator<char>(in), {});
  const nlohmann::json model = nlohmann::json::parse(std::ifstream(golden::path("models/llama/config.json")));
  const int64_t hidden = model["hidden_size"], heads = model["num_attention_heads"],
                kv_heads = model["num_key_value_heads"];
  const int64_t width = hidden / heads, feed_forward = model["intermediate_size"];
  std::vector<SiteSpec> sites;
  for (int block = 0; block < model["num_hidden_layers"]; ++block) {
    const std::string at = "model.layers." + std::to_string(block) + ".";
    sites.push_back({at + "self_attn.q_proj", heads * width, hidden});
    sites.push_back({at + "self_attn.k_proj", kv_heads * width, hidden});
    sites.push_back({at + "self_attn.v_proj", kv_heads * width, hidden});
    sites.push_back({at + "self_attn.o_proj", hidden, heads * width});
    sites.push_back({at + "mlp.gate_proj", feed_forward, hidden});
    sites.push_back({at + "mlp.up_proj", feed_forward, hidden});
    sites.push_back({at + "mlp.down_proj", hidden, feed_forward});
  }
  TestAdapter lora(GetParam(), {}, text.c_str());
  ASSERT_EQ(lora.bind(sites), TN_OK);
  const golden::File weights("lora/adapter/adapter_model.safetensors");
  std::vector<std::string> keys = lora.keys(), expected = weights.names();
  std::sort(keys.begin(), keys.end());
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(keys, expected);
  for (const auto& p : lora.params)
    EXPECT_EQ(weights.shape(p.key), std::vector<int64_t>(p.info.shape, p.info.shape + 2)) << p.key;
}

}  // namespace
}  // namespace tenon::lora::testing
