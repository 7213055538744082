// Speed of element-wise optimizers: bytes that the rule must move a second, and their share of the best of copy (a = b)
// and triad (a = b + s c) over arrays as large, counting what these must move. Steps, copies and triads take turns and
// best times are compared.
//
//   OMP_NUM_THREADS=2 build/bin/benchmark_optimizers
#include <benchmark/benchmark.h>

#include <cmath>

#include "optimizer.h"
#include "sdk/philox.h"

namespace tenon::benchmarks {
namespace {

constexpr int64_t kElements = int64_t{1} << 25;

struct Arrays {
  std::vector<float> a = std::vector<float>(kElements, 1.0f), b = a, c = a;
  __attribute__((noinline)) void copy() {
    float *x = a.data(), *y = b.data();
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < kElements; ++i) x[i] = y[i];
  }
  __attribute__((noinline)) void triad() {
    float *x = a.data(), *y = b.data(), *z = c.data();
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < kElements; ++i) x[i] = y[i] + 3.0f * z[i];
  }
};

void fill(sdk::testing::Tensor& grad) {
  std::vector<float> values(kElements);
  for (int64_t i = 0; i < kElements; ++i)
    values[i] = (sdk::uniform({1, 2, 3}, i) - 0.5f) * std::exp2(static_cast<float>(i / 64 % 16) - 8);
  grad.assign(values);
}

void step(benchmark::State& state, const std::string& id, const std::string& level, tn_dtype dtype, uint32_t flags) {
  Optimizer optimizer(object_of(id, level), {}, dtype, {kElements}, TN_ROLE_OTHER, nullptr, nullptr);
  Arrays arrays;
  fill(optimizer.grad);
  int64_t t = 0;
  optimizer.step(++t, flags);
  double best = 1e9, copy = 1e9, triad = 1e9;
  for (auto _ : state) {
    const double seconds = seconds_of([&] { optimizer.step(++t, flags); });
    best = std::min(best, seconds);
    copy = std::min(copy, seconds_of([&] { arrays.copy(); }));
    triad = std::min(triad, seconds_of([&] { arrays.triad(); }));
    state.SetIterationTime(seconds);
  }
  const double n = static_cast<double>(kElements), speed = optimizer.estimate.bytes_moved / best,
               limit = std::max(8 * n / copy, 12 * n / triad);
  state.counters["GB/s"] = speed * 1e-9;
  state.counters["copy_GB/s"] = 8 * n / copy * 1e-9;
  state.counters["triad_GB/s"] = 12 * n / triad * 1e-9;
  state.counters["bytes_each"] = optimizer.estimate.bytes_moved / n;
  state.counters["share"] = speed / limit;
}

}  // namespace
}  // namespace tenon::benchmarks

int main(int argc, char** argv) {
  using namespace tenon::benchmarks;
  for (const std::string level : {"x86-64-v4", "x86-64-v3"}) {
    if (object_of("adamw", level).empty()) continue;
    for (const std::string id : {"adamw", "adamw8"}) {
      for (const auto& [name, dtype, flags] : std::vector<std::tuple<std::string, tn_dtype, uint32_t>>{
               {"f32", tenon::sdk::kF32, 0},
               {"bf16", tenon::sdk::kBF16, 0},
               {"bf16_stochastic", tenon::sdk::kBF16, TN_ITEM_STOCHASTIC_ROUNDING}})
        benchmark::RegisterBenchmark((id + "/" + name + "/" + level).c_str(), step, id, level, dtype, flags)
            ->UseManualTime()
            ->Iterations(12)
            ->Unit(benchmark::kMillisecond);
    }
  }
  register_refresh();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
