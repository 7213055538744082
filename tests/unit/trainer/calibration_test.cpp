// Weights coded with text in view: the quantizer sees the inputs that each linear really meets, and the model comes out nearer to the dense one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "hosts/trainer/run/calibration.h"
#include "hosts/trainer/run/evaluate.h"
#include "hosts/trainer/run/quantized_export.h"
#include "hosts/trainer/run/segments.h"
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

std::vector<double> losses(const std::string& model, const std::string& quantizer, const CalibrationText& text, uint64_t budget = 0) {
  SessionOptions options;
  options.train = false, options.calibration = text, options.sequence = static_cast<int64_t>(text[0].size());
  MixRequest request = tiny::mix("", {}, quantizer);
  request.weight_budget = budget;
  tiny::Run run(model, request, options);
  if (budget > 0) {
    EXPECT_LE(quantized_bytes(run.session->model()), budget);
  }
  std::vector<double> all;
  for (const auto& ids : text) {
    HostBatch b = shape_batch(1, static_cast<int64_t>(ids.size()), run.source.config().vocab);
    b.ids = ids;
    for (size_t i = 0; i + 1 < ids.size(); ++i) b.labels[i] = ids[i + 1];
    run.session->model().evaluate(b, &all);
  }
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

TEST(Calibration, GridsTrainedBlockByBlockBringTheModelNearer) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama"), spec = "efficientqat:bits=2,group_size=32,";
  const std::string trained = spec + "train_size=24,training_seqlen=64,val_size=4,epochs=6,batch_size=2,quant_lr=1e-3,weight_lr=1e-3";
  const CalibrationText text = walk(24, 64, 320);
  const std::vector<double> dense = losses(model, "", text), nearest = losses(model, spec + "train=false", text), coded = losses(model, trained, text);
  EXPECT_LT(distance(dense, coded), 0.75 * distance(dense, nearest));
  EXPECT_EQ(coded, losses(model, trained, text));
  // Rates of zero leave what rounding to nearest is.
  EXPECT_EQ(losses(model, spec + "train_size=24,training_seqlen=64,quant_lr=0,weight_lr=0", text), nearest);
}

TEST(Calibration, ThePlanHoldsForARunThatTrainsItsGrids) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  SessionOptions options;
  options.calibration = walk(12, 96, 320), options.sequence = 14;
  tiny::Run run(model, tiny::mix("adamw", {"lora:r=4"}, "efficientqat:train_size=12,training_seqlen=96,val_size=2"), options);
  EXPECT_GT(run.session->step(1, 1, {tiny::input()}, 1e-3).loss, 0);
  options.storage = kF32;
  const MemoryUse planned = plan_run(run.runtime, run.source, options, {2, 14, false}, kF32);
  EXPECT_EQ(planned.total_peak, run.engine->memory().use().total_peak);
}

TEST(ScaleTuning, GradientsAreThoseOfTheLossAndNothingElseTrains) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  tiny::Run run(model, tiny::mix("adamw", {}, "efficientqat:bits=3,group_size=32,scale_bits=32,train=false"), {});
  const HostBatch batch = tiny::input();
  std::map<std::string, std::vector<float>> gradients;
  run.gradients(batch, {}, gradients);
  const double n = tiny::predicted(batch);
  size_t checked = 0;
  for (Parameter* p : run.session->optimizer()->parameters()) {
    EXPECT_EQ(p->role, uint32_t{TN_ROLE_SCALE}) << p->name;
    const std::vector<float>& g = gradients.at(p->name);
    const size_t largest = static_cast<size_t>(std::max_element(g.begin(), g.end(), [](float a, float b) { return std::fabs(a) < std::fabs(b); }) - g.begin());
    if (std::fabs(g[largest]) < 0.02) continue;
    float* scale = p->value.as<float>() + largest;
    const float before = *scale, h = 0.01f * std::fabs(before);
    const auto loss = [&](float at) {
      *scale = at;
      return run.session->model().evaluate(batch) / n;
    };
    const double slope = (loss(before + h) - loss(before - h)) / (2.0 * h);
    *scale = before;
    EXPECT_NEAR(g[largest], slope, 0.05 * std::fabs(slope) + 1e-3) << p->name;
    ++checked;
  }
  EXPECT_GT(checked, 3u);
  const double first = run.session->step(1, 30, {batch}, 3e-3).loss;
  double last = first;
  for (int64_t step = 2; step <= 30; ++step) last = run.session->step(step, 30, {batch}, 3e-3).loss;
  EXPECT_LT(last, 0.9 * first);
}

TEST(Segments, ABudgetDecidesHowManyAreLoaded) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  const std::string spec = "bitstack:k=4,niter=6,nsamples=8,sample_length=64,scored_levels=2,score_samples=2,score_length=32";
  const CalibrationText text = walk(8, 64, 320);
  const std::vector<double> dense = losses(model, "", text), all = losses(model, spec, text);
  uint64_t bytes = 0;
  {
    SessionOptions options;
    options.train = false, options.calibration = text, options.sequence = 64;
    tiny::Run run(model, tiny::mix("", {}, spec), options);
    bytes = quantized_bytes(run.session->model());
  }
  const double near = distance(dense, all), half = distance(dense, losses(model, spec, text, bytes / 2)), third = distance(dense, losses(model, spec, text, bytes / 3));
  EXPECT_LT(near, half);
  EXPECT_LT(half, third);
  EXPECT_EQ(losses(model, spec, text, bytes), all);
  try {
    losses(model, spec, text, 1000);
    FAIL() << "a model without weights";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("--weight-budget"), std::string::npos) << e.what();
  }
  try {
    losses(model, "nf4", text, bytes);
    FAIL() << "nf4 has no segments";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("segments"), std::string::npos) << e.what();
  }
}

// From a folder, whose order of segments is not that of the model: what is loaded is the front of it, to the bit, and nothing else.
TEST(Segments, AFolderUnderABudgetIsTheFrontOfItsOrder) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama"), stack = folder / "stack";
  MixRequest request = tiny::mix("", {}, "bitstack:k=4,niter=5,nsamples=8,sample_length=64,scored_levels=2,score_samples=4,score_length=32");
  SessionOptions options;
  options.train = false, options.sequence = 64, options.calibration = walk(8, 64, 320), options.order_segments = true;
  SegmentOrder order;
  {
    tiny::Run run(model, request, options);
    order = run.session->segment_order();
    write_quantized(stack, *run.engine, weights_of(*run.session, false), run.source, run.runtime, run.set->techniques, kF32, order);
  }
  options.calibration.clear();
  request.quantizer = request.stored_quantizer = stored_quantizer(tiny::catalog(), stack);
  tiny::Run whole(stack, request, options);
  EXPECT_EQ(whole.session->segment_order(), order);
  EXPECT_NE(order, natural_order(whole.session->model().segment_sizes()));
  const uint64_t all = quantized_bytes(whole.session->model());
  for (const double share : {0.9, 0.6, 0.3}) {
    request.weight_budget = static_cast<uint64_t>(share * static_cast<double>(all));
    tiny::Run some(stack, request, options);
    const std::vector<int64_t> counts = fitting_segments(whole.session->model().segment_sizes(), order, request.weight_budget);
    const std::vector<Linear*> given = some.session->model().linears(), from = whole.session->model().linears();
    uint64_t least = all;
    for (size_t i = 0; i < given.size(); ++i) {
      if (!given[i]->quantized) continue;
      const QuantizedWeight &part = *given[i]->quantized, &full = *from[i]->quantized;
      EXPECT_EQ(part.segments().count, counts[i]) << given[i]->path;
      least = std::min(least, part.segments().each);
      for (size_t c = 0; c < part.components().size(); ++c) {
        const Tensor &a = part.components()[c], &b = full.components()[c];
        EXPECT_EQ(a.dim(0), part.segmented(c) ? counts[i] : b.dim(0));
        std::vector<char> x(static_cast<size_t>(a.bytes())), y(static_cast<size_t>(b.bytes()));
        some.engine->download(a, x.data()), whole.engine->download(b, y.data());
        EXPECT_TRUE(std::equal(x.begin(), x.end(), y.begin())) << given[i]->path << ", component " << c;
      }
    }
    EXPECT_LE(quantized_bytes(some.session->model()), request.weight_budget);
    EXPECT_GT(quantized_bytes(some.session->model()) + 8 * least, request.weight_budget) << "the budget is used";
  }
}

TEST(Segments, TheOrderGoesLevelByLevelAndABudgetTakesItsFront) {
  std::vector<SegmentSizes> sizes(3);
  for (SegmentSizes& s : sizes) s.count = 3, s.fixed = 10, s.each = 100;
  sizes[2].count = 2;
  EXPECT_EQ(natural_order(sizes), (SegmentOrder{0, 1, 2, 0, 1}));
  const SegmentOrder order{2, 0, 1, 1, 0};
  EXPECT_EQ(fitting_segments(sizes, order, 330), (std::vector<int64_t>{1, 1, 1}));
  EXPECT_EQ(fitting_segments(sizes, order, 529), (std::vector<int64_t>{1, 1, 2}));
  EXPECT_EQ(fitting_segments(sizes, order, 730), (std::vector<int64_t>{2, 3, 2}));
  EXPECT_THROW(fitting_segments(sizes, order, 329), Error);
  EXPECT_THROW(fitting_segments(sizes, {7}, 1000), Error);
  // A larger segment that does not fit ends the prefix, whatever would still fit behind it.
  sizes[0].each = 1000;
  EXPECT_EQ(fitting_segments(sizes, {0, 1}, 1400), (std::vector<int64_t>{1, 1, 1}));
}

TEST(Segments, ThePlanHoldsForARunUnderABudget) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  SessionOptions options;
  options.calibration = walk(8, 64, 320), options.sequence = 14;
  MixRequest request = tiny::mix("adamw", {"lora:r=4"}, "bitstack:k=4,niter=6,nsamples=8,sample_length=64,score_samples=2,score_length=32");
  request.weight_budget = 120000;
  tiny::Run run(model, request, options);
  EXPECT_GT(run.session->step(1, 1, {tiny::input()}, 1e-3).loss, 0);
  options.storage = kF32;
  const MemoryUse planned = plan_run(run.runtime, run.source, options, {2, 14, false}, kF32);
  EXPECT_EQ(planned.total_peak, run.engine->memory().use().total_peak);
}

}  // namespace
}  // namespace tenon::trainer
