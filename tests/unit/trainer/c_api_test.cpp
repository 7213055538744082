// libtenon_trainer as a program in another language sees it: recipes, plans, a run with callbacks, and what bad ones get.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tenon/trainer.h"

namespace {

using nlohmann::json;

std::string take(char* text) {
  const std::string copy = text ? text : "";
  tn_trainer_free_string(text);
  return copy;
}

class TrainerCApi : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = (std::filesystem::temp_directory_path() / "tenon-trainer-c-XXXXXX").string();
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    std::ofstream data(folder_ + "/data.txt");
    for (int i = 0; i < 60; ++i) data << "The joiner cut tenon " << i << " to fit mortise " << i * 7 % 60 << ".\n";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  json recipe() const {
    return {{"model", "preset:9m"}, {"data", folder_ + "/data.txt"}, {"output", folder_ + "/out"}, {"adapter", {"lora:r=4"}}, {"quantizer", "nf4"},
            {"device", "onednn"},   {"seq-len", 16},                 {"batch-size", 2},            {"steps", 4},              {"schedule", "constant"},
            {"lr", 0.01},           {"tiled-loss", true}};
  }
  int32_t create(const std::string& text, tn_trainer** out) const {
    const char* const stores[] = {TENON_BINARY_DIR "/lib/tenon"};
    return tn_trainer_create(stores, 1, text.c_str(), out);
  }
  tn_trainer* make(const json& recipe) const {
    tn_trainer* t = nullptr;
    EXPECT_EQ(create(recipe.dump(), &t), TN_OK) << tn_trainer_last_error();
    return t;
  }
  void refused(const std::string& recipe, const std::string& words, int32_t status = TN_E_ARGUMENT) const {
    tn_trainer* t = nullptr;
    EXPECT_EQ(create(recipe, &t), status) << recipe;
    EXPECT_NE(std::string(tn_trainer_last_error()).find(words), std::string::npos) << tn_trainer_last_error();
    EXPECT_EQ(t, nullptr);
  }
  void refused(const json& recipe, const std::string& words, int32_t status = TN_E_ARGUMENT) const { refused(recipe.dump(), words, status); }

  std::string folder_;
};

struct Told {
  std::vector<double> losses;
  std::vector<int64_t> evaluated;
  std::vector<std::string> notes;
  int64_t stop_at = 0;
  tn_trainer* trainer = nullptr;
};

tn_trainer_events events_of(Told& told) {
  tn_trainer_events e{};
  e.struct_size = TN_SIZE_TO(tn_trainer_events, note);
  e.self = &told;
  e.step = [](void* self, const tn_trainer_step* s) -> int32_t {
    Told& t = *static_cast<Told*>(self);
    EXPECT_GE(s->struct_size, TN_SIZE_TO(tn_trainer_step, peak_bytes));
    EXPECT_GT(s->peak_bytes, 0u);
    EXPECT_GE(s->peak_bytes, s->live_bytes);
    EXPECT_GT(s->tokens, 0);
    t.losses.push_back(s->loss);
    EXPECT_EQ(s->step, static_cast<int64_t>(t.losses.size()));
    if (t.trainer) {
      EXPECT_EQ(tn_trainer_run(t.trainer, nullptr, nullptr), TN_E_STATE) << "a run inside a run is refused";
    }
    return t.stop_at == s->step;
  };
  e.evaluated = [](void* self, int64_t step, double, double) { static_cast<Told*>(self)->evaluated.push_back(step); };
  e.note = [](void* self, const char* sentence) { static_cast<Told*>(self)->notes.emplace_back(sentence); };
  return e;
}

TEST_F(TrainerCApi, RunsARecipeAndTellsWhatHappens) {
  json r = recipe();
  r["held-out"] = 0.2;
  tn_trainer* const t = make(r);
  Told told;
  told.trainer = t;
  const tn_trainer_events events = events_of(told);
  char* text = nullptr;
  ASSERT_EQ(tn_trainer_run(t, &events, &text), TN_OK) << tn_trainer_last_error();
  const json result = json::parse(take(text));
  EXPECT_EQ(told.losses.size(), 4u);
  EXPECT_EQ(told.evaluated, (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(result["steps"], 4);
  EXPECT_EQ(result["stopped"], false);
  EXPECT_EQ(result["loss"].get<double>(), told.losses.back());
  EXPECT_LT(told.losses.back(), told.losses.front());
  EXPECT_TRUE(std::filesystem::exists(result["final"].get<std::string>() + "/adapter_model.safetensors"));
  EXPECT_EQ(tn_trainer_run(t, nullptr, nullptr), TN_E_CONFLICT) << "the output holds a run";
  tn_trainer_destroy(t);
}

TEST_F(TrainerCApi, PlansWhatTheRunThenUses) {
  tn_trainer* const t = make(recipe());
  char* text = nullptr;
  ASSERT_EQ(tn_trainer_plan(t, &text), TN_OK) << tn_trainer_last_error();
  const json plan = json::parse(take(text));
  EXPECT_TRUE(plan["fits"].get<bool>());
  EXPECT_GT(plan["categories"]["adapter"].get<uint64_t>(), 0u);
  ASSERT_EQ(tn_trainer_run(t, nullptr, &text), TN_OK) << tn_trainer_last_error();
  const json result = json::parse(take(text));
  EXPECT_EQ(result["planned_bytes"], plan["planned_bytes"]);
  EXPECT_NEAR(result["peak_bytes"].get<double>(), plan["planned_bytes"].get<double>(), 0.05 * plan["planned_bytes"].get<double>());
  tn_trainer_destroy(t);

  json small = recipe();
  small["memory-limit"] = "1MB", small["output"] = folder_ + "/limited";
  tn_trainer* const limited = make(small);
  ASSERT_EQ(tn_trainer_plan(limited, &text), TN_OK) << tn_trainer_last_error();
  const json over = json::parse(take(text));
  EXPECT_FALSE(over["fits"].get<bool>());
  EXPECT_FALSE(over["alternatives"].empty());
  EXPECT_EQ(tn_trainer_run(limited, nullptr, nullptr), TN_E_MEMORY);
  EXPECT_NE(std::string(tn_trainer_last_error()).find("--memory-limit"), std::string::npos) << tn_trainer_last_error();
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/limited")) << "a refused run left something";
  tn_trainer_destroy(limited);
}

TEST_F(TrainerCApi, StopsAndGoesOnBitForBit) {
  Told whole;
  tn_trainer* t = make(recipe());
  tn_trainer_events events = events_of(whole);
  ASSERT_EQ(tn_trainer_run(t, &events, nullptr), TN_OK) << tn_trainer_last_error();
  tn_trainer_destroy(t);

  json r = recipe();
  r["output"] = folder_ + "/parts";
  Told first;
  first.stop_at = 2;
  t = make(r);
  events = events_of(first);
  char* text = nullptr;
  ASSERT_EQ(tn_trainer_run(t, &events, &text), TN_OK) << tn_trainer_last_error();
  EXPECT_TRUE(json::parse(take(text))["stopped"].get<bool>());
  tn_trainer_destroy(t);
  EXPECT_EQ(first.losses, (std::vector<double>{whole.losses[0], whole.losses[1]}));

  r["resume"] = true;
  t = make(r);
  std::vector<double> rest;
  tn_trainer_events more{};
  more.struct_size = TN_SIZE_TO(tn_trainer_events, step);  // an older caller, who does not know what came after
  more.self = &rest;
  more.step = [](void* self, const tn_trainer_step* s) -> int32_t {
    static_cast<std::vector<double>*>(self)->push_back(s->loss);
    return 0;
  };
  more.note = [](void*, const char*) { ADD_FAILURE() << "beyond the stated size"; };
  ASSERT_EQ(tn_trainer_run(t, &more, nullptr), TN_OK) << tn_trainer_last_error();
  tn_trainer_destroy(t);
  EXPECT_EQ(rest, (std::vector<double>{whole.losses[2], whole.losses[3]}));
}

TEST_F(TrainerCApi, StopsFromAnotherThread) {
  json r = recipe();
  r["steps"] = 100000;
  tn_trainer* const t = make(r);
  std::thread other([&] { tn_trainer_stop(t); });
  char* text = nullptr;
  ASSERT_EQ(tn_trainer_run(t, nullptr, &text), TN_OK) << tn_trainer_last_error();
  other.join();
  EXPECT_TRUE(json::parse(take(text))["stopped"].get<bool>());
  tn_trainer_stop(nullptr);
  tn_trainer_destroy(t);
}

TEST_F(TrainerCApi, RefusesBadRecipesInWords) {
  refused(std::string("{"), "the recipe", TN_E_FORMAT);
  refused(std::string("[]"), "must hold a JSON object");
  refused(std::string(R"({"model": "preset:9m", "model": "preset:60m"})"), "model", TN_E_FORMAT);
  refused(json::object(), "the recipe has no \"model\"");
  json r = recipe();
  r["learning-rate"] = 1;
  refused(r, "learning-rate");
  r = recipe();
  r["optimiser"] = "adamw";
  refused(r, "did you mean '--optimizer'");
  r = recipe();
  r["optimizer"] = "adamw:beta2=1.5";
  refused(r, "beta2=1.5");
  r = recipe();
  r["lr"] = "fast";
  refused(r, "--lr fast is not a number");
  r = recipe();
  r["lr"] = json::object();
  refused(r, "neither a text nor a number");
  r = recipe();
  r["help"] = true;
  refused(r, "is not a flag that a recipe may hold");
  r = recipe();
  r["quantizer"] = "nf5";
  refused(r, "nf4", TN_E_NOT_FOUND);
  r = recipe();
  r["fused-backward"] = true, r["accumulate"] = 2, r["clip"] = 0;
  refused(r, "accumulate", TN_E_CONFLICT);
  tn_trainer* t = nullptr;
  EXPECT_EQ(create("{}", nullptr), TN_E_ARGUMENT);
  EXPECT_EQ(tn_trainer_create(nullptr, 1, "{}", &t), TN_E_ARGUMENT);
  EXPECT_EQ(tn_trainer_create(nullptr, 0, nullptr, &t), TN_E_ARGUMENT);
  EXPECT_EQ(tn_trainer_run(nullptr, nullptr, nullptr), TN_E_ARGUMENT);
  EXPECT_STREQ(tn_trainer_last_error(), "the argument trainer is null");
  tn_trainer_destroy(nullptr);
}

TEST_F(TrainerCApi, RefusesARunThatLacksSomething) {
  json r = recipe();
  r.erase("data");
  tn_trainer* t = make(r);
  EXPECT_EQ(tn_trainer_run(t, nullptr, nullptr), TN_E_ARGUMENT);
  EXPECT_STREQ(tn_trainer_last_error(), "the recipe has no \"data\"; give a text or JSON lines file");
  tn_trainer_events empty{};
  tn_trainer_destroy(t);
  r = recipe();
  t = make(r);
  EXPECT_EQ(tn_trainer_run(t, &empty, nullptr), TN_E_ARGUMENT) << "struct_size is 0";
  tn_trainer_destroy(t);
  r["data"] = folder_ + "/none.txt";
  t = make(r);
  EXPECT_EQ(tn_trainer_run(t, nullptr, nullptr), TN_E_NOT_FOUND) << tn_trainer_last_error();
  tn_trainer_destroy(t);
}

TEST(TrainerCApiKeys, AreTheFlagsOfTrain) {
  char* text = nullptr;
  ASSERT_EQ(tn_trainer_recipe_keys(&text), TN_OK);
  const json keys = json::parse(take(text));
  const auto find = [&](const char* name) {
    for (const json& key : keys)
      if (key["name"] == name) return key;
    ADD_FAILURE() << name;
    return json();
  };
  EXPECT_EQ(find("optimizer")["default"], "adamw");
  EXPECT_EQ(find("adapter")["repeats"], true);
  EXPECT_EQ(find("resume")["switch"], true);
  EXPECT_EQ(find("lr")["switch"], false);
  EXPECT_EQ(find("steps")["default"], nullptr);
}

}  // namespace
