// Steps with several threads are steps with one. A program of its own, so that a build with the thread sanitizer needs few plugins:
// clang 15 or later (14 has no _Float16), -DTENON_SANITIZE=thread "-DTENON_PLUGINS=onednn;adamw;lora;nf4;flash-attention"; run with libomp's
// libarcher.so as OMP_TOOL_LIBRARIES and TSAN_OPTIONS=ignore_noninstrumented_modules=1, as neither libomp nor oneDNN is instrumented.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "hosts/trainer/schedule/parse.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

struct Case {
  const char* name;
  std::vector<std::string> adapters;
  const char* quantizer;
  tn_dtype dtype;
  void (*set)(SessionOptions&);
};

class Threads : public testing::TestWithParam<Case> {
 protected:
  static double last_loss(int threads) {
    const Case& c = GetParam();
    omp_set_num_threads(threads);
    const tiny::Folder folder;
    SessionOptions options;
    options.sequence = 14, options.offload_folder = TENON_BINARY_DIR;
    c.set(options);
    tiny::Run run(tiny::model_folder(folder, "mistral"), tiny::mix("adamw", c.adapters, c.quantizer), options, c.dtype);
    double loss = 0;
    for (int64_t step = 1; step <= 2; ++step) loss = run.session->step(step, 2, {tiny::input()}, 1e-3).loss;
    run.session->model().evaluate(tiny::input());
    return loss;
  }
};

TEST_P(Threads, ComputeWhatOneComputes) {
  const double one = last_loss(1), four = last_loss(4);
  EXPECT_NEAR(one, four, 1e-5 * one);
}

INSTANTIATE_TEST_SUITE_P(Mixes, Threads,
                         testing::Values(Case{"full", {}, "", kF32, [](SessionOptions&) {}},
                                         Case{"four_bits", {"lora:r=4,target_modules=all-linear,lora_dropout=0.1"}, "nf4", kF32, [](SessionOptions&) {}},
                                         Case{"slices", {}, "", kF32, [](SessionOptions& o) { o.memory.stream_rows = 5, o.memory.offload = Offload::kFile; }},
                                         Case{"fused", {}, "", kF32, [](SessionOptions& o) { o.fused_backward = o.memory.tiled_mlp = true, o.memory.loss_tile_bytes = 96 * 4 * 5; }}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace tenon::trainer
