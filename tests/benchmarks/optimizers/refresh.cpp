// GaLore's subspace refresh at 2048×5632, rank 128: warm iteration against the exact subspace, in time and in the
// energy that is kept, on a gradient whose spectrum falls slowly.
#include <benchmark/benchmark.h>

#include <cmath>
#include <memory>

#include "optimizer.h"
#include "sdk/linalg/matrix.h"
#include "sdk/philox.h"

namespace tenon::benchmarks {
namespace {

constexpr int64_t kRows = 2048, kColumns = 5632, kDirections = 512;

struct Device {
  sdk::testing::FakeHost host;
  const tn_device_api* api = nullptr;
  tn_device* handle = nullptr;
  Device() {
    api = static_cast<const tn_device_api*>(sdk::testing::load_plugin(host, object_of("onednn")).api);
    if (api->open(host.get(), 0, &handle) != TN_OK) std::exit(1);
  }
  ~Device() { api->close(handle); }
};

// Σ k^-1/2 a_k b_kᵀ + turn · noise.
void gradient(const Device& device, sdk::testing::Tensor& out, uint32_t seed) {
  std::vector<float> a(kRows * kDirections), b(kDirections * kColumns);
  for (int64_t i = 0; i < kRows * kDirections; ++i)
    a[i] = (sdk::uniform({1, 2, 3}, i) - 0.5f + 0.1f * (sdk::uniform({seed, 5, 3}, i) - 0.5f)) /
           std::sqrt(static_cast<float>(i % kDirections + 1));
  for (int64_t i = 0; i < kDirections * kColumns; ++i) b[i] = sdk::uniform({1, 2, 4}, i) - 0.5f;
  const auto x = sdk::Matrix::dense(a.data(), kRows, kDirections),
             y = sdk::Matrix::dense(b.data(), kDirections, kColumns),
             z = sdk::Matrix::dense(out.as<float>(), kRows, kColumns);
  const sdk::testing::Memory workspace(sdk::Products(device.api, device.handle).measure(x, y, z));
  sdk::Products(device.api, device.handle, nullptr, workspace.data(), workspace.size())(1, x, y, 0, z);
}

struct Run {
  double first, again, step;  // seconds
  double energy, energy_again;
};
Run run(const Device& device, const std::string& svd) {
  Optimizer galore(object_of("galore"), {{"svd", svd}, {"update_proj_gap", "2"}}, sdk::kF32, {kRows, kColumns},
                   TN_ROLE_DOWN, device.api, device.handle);
  Run r{};
  gradient(device, galore.grad, 1);
  r.first = seconds_of([&] { galore.step(1); });
  r.energy = galore.metric("galore_energy");
  r.step = seconds_of([&] { galore.step(2); });
  gradient(device, galore.grad, 2);
  r.again = seconds_of([&] { galore.step(3); });
  r.energy_again = galore.metric("galore_energy");
  r.step = std::min(r.step, seconds_of([&] { galore.step(4); }));
  return r;
}

void refresh(benchmark::State& state) {
  Device device;
  for (auto _ : state) {
    const Run warm_up = run(device, "randomized"), fast = run(device, "randomized"), exact = run(device, "exact");
    (void)warm_up;
    state.SetIterationTime(fast.again - fast.step);
    state.counters["cold_s"] = fast.first - fast.step;
    state.counters["warm_s"] = fast.again - fast.step;
    state.counters["exact_s"] = exact.again - exact.step;
    state.counters["step_s"] = fast.step;
    state.counters["times_faster"] = (exact.again - exact.step) / (fast.again - fast.step);
    state.counters["energy_cold"] = fast.energy / exact.energy;
    state.counters["energy_warm"] = fast.energy_again / exact.energy_again;
  }
}

}  // namespace

void register_refresh() {
  if (!object_of("onednn").empty())
    benchmark::RegisterBenchmark("galore/refresh", refresh)
        ->UseManualTime()
        ->Iterations(1)
        ->Unit(benchmark::kMillisecond);
}

}  // namespace tenon::benchmarks
