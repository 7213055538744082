// Weights coded with text in view: the quantizer sees the inputs that each linear really meets, and the model comes out nearer to the dense one.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "hosts/trainer/run/calibration.h"
#include "hosts/trainer/run/evaluate.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

// Text with structure: inputs of a linear that correlate, as those of real text do.
CalibrationText walk(size_t sequences, size_t length, int32_t vocab) {
  CalibrationText out(sequences);
  uint32_t state = 1;
  for (auto& s : out)
    for (size_t i = 0; i < length; ++i) {
      state = state * 1664525 + 1013904223;
      s.push_back(static_cast<int32_t>((state >> 24) % 12 * 7 % static_cast<uint32_t>(vocab)));
    }
  return out;
}

std::vector<double> losses(const std::string& model, const std::string& quantizer, const CalibrationText& text, MemoryUse* use = nullptr) {
  SessionOptions options;
  options.train = false, options.calibration = text, options.sequence = static_cast<int64_t>(text[0].size());
  tiny::Run run(model, tiny::mix("", {}, quantizer), options);
  std::vector<double> all;
  for (const auto& ids : text) {
    HostBatch b = shape_batch(1, static_cast<int64_t>(ids.size()), run.source.config().vocab);
    b.ids = ids;
    for (size_t i = 0; i + 1 < ids.size(); ++i) b.labels[i] = ids[i + 1];
    run.session->model().evaluate(b, &all);
  }
  if (use) *use = run.engine->memory().use();
  return all;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

TEST(Calibration, BringsTheModelNearerToTheDenseOneAndIsRepeatable) {
  const tiny::Folder folder;
  for (const char* name : {"llama", "qwen3"}) {
    const std::string model = tiny::model_folder(folder, name);
    const CalibrationText text = walk(24, 64, 320);
    const std::vector<double> dense = losses(model, "", text), nearest = losses(model, "gptq:bits=3,calibrate=false", text),
                              coded = losses(model, "gptq:bits=3", text);
    EXPECT_GT(distance(dense, nearest), 0);
    EXPECT_LT(distance(dense, coded), 0.75 * distance(dense, nearest)) << name;
    EXPECT_EQ(coded, losses(model, "gptq:bits=3", text)) << name;
  }
}

TEST(Calibration, WithoutTextIsRefusedInWords) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  SessionOptions options;
  options.train = false;
  try {
    tiny::Run run(model, tiny::mix("", {}, "gptq"), options);
    FAIL() << "coded without text";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("--calibration"), std::string::npos) << e.what();
  }
}

TEST(Calibration, ThePlanHoldsForARunThatCalibrates) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  SessionOptions options;
  options.calibration = walk(40, 96, 320), options.sequence = 14;
  tiny::Run run(model, tiny::mix("adamw", {"lora:r=4"}, "gptq:bits=4,group_size=32"), options);
  const HostBatch batch = tiny::input();
  EXPECT_GT(run.session->step(1, 1, {batch}, 1e-3).loss, 0);
  options.storage = kF32;
  const MemoryUse planned = plan_run(run.runtime, run.source, options, {2, 14, false}, kF32);
  const double measured = static_cast<double>(run.engine->memory().use().total_peak);
  EXPECT_NEAR(static_cast<double>(planned.total_peak), measured, 0.03 * measured);
}

}  // namespace
}  // namespace tenon::trainer
