// Adapters that run the stack of blocks themselves, on the golden model: loss and every gradient against the authors' code.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

// A case of a golden file of side_blocks.py: parameter k of `order` is noise(seed + k), a gain 1 + a quarter of it, a matrix a quarter, other
// vectors half, a gate gate_scale.
class Golden {
 public:
  Golden(const std::string& technique, const std::string& adapter, const std::string& name, uint32_t seed, float gate_scale = 0.5f)
      : file_(technique + "/" + technique + ".safetensors"), name_(name),
        run_(tiny::model_folder(folder_, "llama"), tiny::mix("sgd", {adapter}), {}) {
    std::map<std::string, const Parameter*> parameters;
    for (const Parameter* p : run_.session->optimizer()->parameters()) parameters[p->name] = p;
    const std::vector<std::string> order = file_.setting("order").at(name);
    for (const std::string& key : order) {
      EXPECT_TRUE(parameters.contains(key)) << adapter << " has no " << key;
      const Parameter& p = *parameters.at(key);
      const bool gain = key.find("norm") != std::string::npos, gate = key.ends_with("gate");
      std::vector<float> v = golden::noise(seed++, static_cast<size_t>(p.value.count()), gate ? gate_scale : p.value.ndim() == 2 || gain ? 0.25f : 0.5f);
      for (float& x : v) x += gain ? 1 : 0;
      run_.engine->upload(v.data(), p.value);
      parameters.erase(key);
    }
    left_ = parameters;
  }
  // A parameter that is not in `order`.
  void set(const std::string& key, float value) {
    ASSERT_TRUE(left_.contains(key)) << key;
    const std::vector<float> v(static_cast<size_t>(left_.at(key)->value.count()), value);
    run_.engine->upload(v.data(), left_.at(key)->value);
    left_.erase(key);
  }
  void expect_equal(double tolerance = 1e-4) {
    EXPECT_TRUE(left_.empty()) << left_.begin()->first;
    std::map<std::string, std::vector<float>> gradients;
    EXPECT_NEAR(run_.gradients(tiny::input(), {}, gradients), file_.f32(name_ + ".loss")[0], 1e-5);
    for (const auto& [key, g] : gradients) {
      const std::vector<float> expected = file_.f32(name_ + ".grad." + key);
      ASSERT_EQ(g.size(), expected.size()) << key;
      EXPECT_LT(tiny::distance(g, expected), tolerance) << name_ << " " << key;
    }
  }

 private:
  const tiny::Folder folder_;
  const golden::File file_;
  const std::string name_;
  tiny::Run run_;
  std::map<std::string, const Parameter*> left_;
};

std::string text(const nlohmann::json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

TEST(Region, QstEqualsTheAuthors) {
  uint32_t seed = 4000;
  const nlohmann::json cases = golden::File("qst/qst.safetensors").setting("settings");
  for (const char* name : {"plain", "silu"}) {
    const nlohmann::json& c = cases.at(name);
    for (const char* taps : {"kept", "rerun"}) {
      Golden g("qst", "qst:reduction=" + text(c["reduction"]) + ",r=" + text(c["r"]) + ",activation=" + text(c["activation"]) + ",taps=" + taps, name, seed);
      g.set("base_model.model.side.output_gate", c["logit"]);
      g.expect_equal();
    }
    seed += 100;
  }
}

TEST(Region, LstEqualsTheAuthors) {
  uint32_t seed = 4200;
  const nlohmann::json cases = golden::File("lst/lst.safetensors").setting("settings");
  for (const char* name : {"before", "after", "dropped"}) {
    const nlohmann::json& c = cases.at(name);
    std::string adapter = "lst:init=fresh,reduction_factor=" + text(c["reduction"]) + ",gate=" + (c["after"].get<bool>() ? "after" : "before");
    if (!c["dropped"].empty()) adapter += ",dropped_layers=" + text(c["dropped"][0]);
    Golden g("lst", adapter, name, seed, 0.0625f);
    g.expect_equal();
    seed += 100;
  }
}

TEST(Region, MeftEqualsTheAuthors) {
  uint32_t seed = 4600;
  const nlohmann::json cases = golden::File("meft/meft.safetensors").setting("settings");
  for (const char* name : {"first", "second", "third", "other"}) {
    const nlohmann::json& c = cases.at(name);
    Golden g("meft", "meft:bottleneck=4,variant=" + text(c["variant"]) + ",lambda=" + text(c["x1"]) + ",beta=" + text(c["x2"]), name, seed);
    g.expect_equal(2e-4);  // two blocks of inversion in f32
    seed += 100;
  }
}

// A block that is run without being kept, and again to be kept, drops the same inputs, and so do the adapters beside it: else inversion would not
// lead back.
TEST(Region, DropoutInsideTheBlocksReplays) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  std::map<std::string, std::vector<float>> inverted, kept;
  double loss[2];
  int k = 0;
  for (auto* out : {&inverted, &kept}) {
    tiny::Run run(model, tiny::mix("sgd", {std::string("meft:variant=1,dropout=0.5,anchor_every=") + (k ? "1" : "64"), "lora:r=4,init_lora_weights=false,lora_dropout=0.5,target_modules=all-linear"}), {});
    loss[k++] = run.gradients(tiny::input(), {}, *out);
  }
  EXPECT_EQ(loss[0], loss[1]);
  for (const auto& [name, g] : kept) EXPECT_LT(tiny::distance(inverted.at(name), g), 1e-3) << name;
}

}  // namespace
}  // namespace tenon::trainer
