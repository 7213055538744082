// Speed of flash-attention: visible FLOP/s of both passes, and their share of what oneDNN's sgemm (1024³) reaches on
// the same threads. Calls and products alternate and medians are compared, so that a busy machine disturbs both alike.
//
//   OMP_NUM_THREADS=2 build/bin/benchmark_attention
#include <benchmark/benchmark.h>
#include <omp.h>
#include <time.h>
#include <dnnl.hpp>

#include <algorithm>
#include <random>

#include "sdk/testing/host.h"
#include "tenon/attention.h"

namespace {

using tenon::sdk::testing::Tensor;
constexpr int64_t kHeads = 9, kKvHeads = 3, kWidth = 64;

// One thread is timed by its CPU clock, which a busy machine does not stretch; several by the wall clock.
double now() {
  timespec t;
  clock_gettime(omp_get_max_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Of the second of two runs: the first one fetches the operands.
double seconds_of(auto&& work) {
  work();
  const double start = now();
  work();
  return now() - start;
}

double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + x.size() / 2, x.end());
  return x[x.size() / 2];
}

Tensor random_tensor(tn_dtype dtype, std::vector<int64_t> shape) {
  static std::mt19937 random(1);
  std::normal_distribution<float> normal;
  Tensor t(dtype, std::move(shape));
  std::vector<float> values(static_cast<size_t>(t.size()));
  for (float& x : values) x = normal(random);
  t.assign(values);
  return t;
}

struct Product {
  static constexpr int64_t kSize = 1024;
  std::vector<float> a = std::vector<float>(kSize * kSize, 0.5f), b = a, c = a;
  void operator()() {
    dnnl::sgemm('N', 'N', kSize, kSize, kSize, 1.0f, a.data(), kSize, b.data(), kSize, 0.0f, c.data(), kSize);
  }
  static constexpr double kFlops = 2.0 * kSize * kSize * kSize;
};

void attention(benchmark::State& state, const std::string& object, tn_dtype dtype, bool backward, int64_t t_q,
               int64_t t_k) {
  tenon::sdk::testing::FakeHost host;
  const auto* api = static_cast<const tn_attention_api*>(tenon::sdk::testing::load_plugin(host, object).api);
  const tn_attention_config config{sizeof config, kHeads, kKvHeads, kWidth, kWidth, 0, 1, 0, kHeads, 0, 0, 0};
  tn_attention* self = nullptr;
  api->create(host.get(), nullptr, 0, &config, &self);
  const tn_mask_term causal{sizeof causal, TN_MASK_CAUSAL, 0, 0, 0};
  const tn_mask_term* mask[] = {&causal};
  const tn_attention_shape shape{sizeof shape, TN_PHASE_TRAIN, 0, 1, 1, t_q, t_k, t_k - t_q, 0, mask, nullptr, dtype};
  const std::pair<uint32_t, std::vector<int64_t>> ports[] = {
      {TN_PORT_Q, {1, t_q, kHeads, kWidth}},   {TN_PORT_K, {1, t_k, kKvHeads, kWidth}},
      {TN_PORT_V, {1, t_k, kKvHeads, kWidth}}, {TN_PORT_O, {1, t_q, kHeads, kWidth}},
      {TN_PORT_LSE, {1, kHeads, t_q}},         {TN_PORT_DO, {1, t_q, kHeads, kWidth}},
      {TN_PORT_DQ, {1, t_q, kHeads, kWidth}},  {TN_PORT_DK, {1, t_k, kKvHeads, kWidth}},
      {TN_PORT_DV, {1, t_k, kKvHeads, kWidth}}};
  std::vector<Tensor> tensors;
  for (const auto& [port, dims] : ports)
    tensors.push_back(random_tensor(port == TN_PORT_LSE ? tenon::sdk::kF32 : dtype, dims));
  std::vector<tn_port_bind> binds;
  for (size_t i = 0; i < tensors.size(); ++i)
    binds.push_back({sizeof(tn_port_bind), ports[i].first, 0, 0, tensors[i].get()});
  std::vector<const tn_port_bind*> pointers;
  for (const auto& b : binds) pointers.push_back(&b);

  tn_attention_plan plan{};
  plan.struct_size = sizeof plan;
  api->plan(self, nullptr, nullptr, &shape, &plan);
  tenon::sdk::testing::Exec exec(std::max(plan.forward.workspace_bytes, plan.backward.workspace_bytes));
  const tn_attention_call call{sizeof call, 0, exec.get(), 0, {}, 0};
  api->forward(self, &call, &shape, pointers.data(), pointers.size());
  const auto pass = backward ? api->backward : api->forward;
  Product product;
  product();
  std::vector<double> calls, products;
  for (auto _ : state) {
    calls.push_back(seconds_of([&] { pass(self, &call, &shape, pointers.data(), pointers.size()); }));
    products.push_back(seconds_of(product));
    state.SetIterationTime(calls.back());
  }
  const double flops = (backward ? plan.backward : plan.forward).flops, speed = flops / median(calls),
               peak = Product::kFlops / median(products);
  state.counters["GFLOP/s"] = speed * 1e-9;
  state.counters["sgemm_GFLOP/s"] = peak * 1e-9;
  state.counters["share"] = speed / peak;
  state.counters["GB/s"] = plan.forward.bytes_moved / median(calls) * 1e-9;
  api->destroy(self);
}

}  // namespace

int main(int argc, char** argv) {
  for (const std::string& object : tenon::sdk::testing::plugin_objects()) {
    const std::string level = tenon::sdk::testing::object_label(object);
    for (const auto& [dtype, type] : {std::pair{tenon::sdk::kF32, "f32"}, {tenon::sdk::kBF16, "bf16"}}) {
      for (const int64_t t : {256, 512, 2048, 8192})
        for (const bool backward : {false, true})
          benchmark::RegisterBenchmark(
              (std::string(backward ? "backward/" : "forward/") + type + "/" + level + "/" + std::to_string(t)).c_str(),
              attention, object, dtype, backward, t, t)
              ->UseManualTime()
              ->Unit(benchmark::kMillisecond);
      benchmark::RegisterBenchmark((std::string("decode/") + type + "/" + level + "/8192").c_str(), attention, object,
                                   dtype, false, 1, 8192)
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
