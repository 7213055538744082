// Speed of the quantizers: bytes read and written by encode, decode and the fused product, and their share of the
// memory bandwidth of the machine, the best of copy and triad. Calls alternate with copies and triads and medians are
// compared, so that a busy machine disturbs all alike.
//
//   OMP_NUM_THREADS=1 quantizers_benchmark        # a busy machine: CPU time of one thread
//   OMP_NUM_THREADS=2 quantizers_benchmark
#include <benchmark/benchmark.h>
#include <omp.h>
#include <time.h>

#include <algorithm>

#include "sdk/testing/host.h"
#include "tenon/quantizer.h"

namespace {

using namespace tenon::sdk::testing;
using Options = std::map<std::string, std::string>;

// One thread is timed by its CPU clock, which a busy machine does not stretch; several by the wall clock.
double now() {
  timespec t;
  clock_gettime(omp_get_max_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double seconds_of(auto&& work) {
  const double start = now();
  work();
  return now() - start;
}

double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + x.size() / 2, x.end());
  return x[x.size() / 2];
}

// Bytes per second of one copy and of one triad over arrays far larger than the caches.
struct Bandwidth {
  static constexpr int64_t kFloats = int64_t{1} << 25;
  std::vector<float> a = std::vector<float>(kFloats, 1.0f), b = a, c = a;
  std::vector<double> copies, triads;

  void measure() {
    copies.push_back(8.0 * kFloats / seconds_of([&] {
#pragma omp parallel
                       {
                         const int64_t part = kFloats / omp_get_num_threads(), at = part * omp_get_thread_num();
                         std::memcpy(&a[at], &b[at], part * sizeof(float));
                       }
                     }));
    triads.push_back(12.0 * kFloats / seconds_of([&] {
#pragma omp parallel for simd schedule(static)
                       for (int64_t i = 0; i < kFloats; ++i) a[i] = b[i] + 0.5f * c[i];
                     }));
  }
  double best() const {
    return std::max(median(copies), median(triads));
  }
};

Bandwidth& bandwidth() {
  static Bandwidth b;
  return b;
}

void run(benchmark::State& state, const std::string& object, const Options& options, uint32_t op, uint32_t site, tn_dtype dtype,
         int64_t m, int64_t n, int64_t rows) {
  FakeHost host;
  const tn_plugin& plugin = load_plugin(host, object);
  const auto& api = *static_cast<const tn_quantizer_api*>(plugin.api);
  const HyperValues values(plugin, options);
  tn_quantizer* self = nullptr;
  if (api.create(host.get(), values.data(), values.size(), &self) != TN_OK)
    return state.SkipWithError(host.error.c_str());

  tn_target target{};
  target.struct_size = sizeof target, target.site = site, target.ndim = 2, target.dtype = dtype,
  target.name = "weight";
  target.shape[0] = m, target.shape[1] = n;
  std::vector<Tensor> parts;
  const tn_component_sink sink{sizeof sink, 0, &parts, [](void* to, const tn_component* c) -> int32_t {
                                 static_cast<std::vector<Tensor>*>(to)->emplace_back(
                                     c->dtype, std::vector<int64_t>(c->shape, c->shape + c->ndim));
                                 return TN_OK;
                               }};
  api.plan(self, &target, &sink);
  std::vector<tn_tensor*> components;
  for (Tensor& t : parts) components.push_back(t.get());

  Tensor dense(dtype, {m, n});
  for (int64_t i = 0; i < dense.size(); ++i) {  // cheap noise
    const float x = static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(i) * 2654435761u)) * 0x1p-31f;
    if (dtype.bits == 32)
      dense.as<float>()[i] = x;
    else
      dense.as<tenon::sdk::bf16>()[i] = tenon::sdk::from_float<tenon::sdk::bf16>(x);
  }
  tn_estimate e{};
  e.struct_size = sizeof e;
  const auto estimate = [&](uint32_t what, int64_t count) {
    if (api.estimate(self, nullptr, nullptr, &target, what, count, &e) != TN_OK)
      state.SkipWithError(host.error.c_str());
    return e.workspace_bytes;
  };
  const tn_rng rng{};
  api.encode(self, Exec(estimate(TN_QUANTIZER_ENCODE, m * n)).get(), &target, dense.get(), components.data(), &rng);

  const int64_t count = op == TN_QUANTIZER_LINEAR ? rows : m * n;
  const Exec exec(estimate(op, count));
  const Tensor x(tenon::sdk::kF32, {std::max<int64_t>(rows, 1), n},
                 std::vector<float>(std::max<int64_t>(rows, 1) * n, 0.5f));
  Tensor y(tenon::sdk::kF32, {std::max<int64_t>(rows, 1), m});
  std::vector<double> seconds;
  for (auto _ : state) {
    bandwidth().measure();
    const double s = seconds_of([&] {
      int32_t status;
      if (op == TN_QUANTIZER_ENCODE)
        status = api.encode(self, exec.get(), &target, dense.get(), components.data(), &rng);
      else if (op == TN_QUANTIZER_DECODE)
        status = api.decode(self, exec.get(), &target, components.data(), 0, m * n, dense.get());
      else
        status = api.linear(self, exec.get(), &target, components.data(), x.get(), 1.0, 0.0, y.get());
      if (status != TN_OK) state.SkipWithError(host.error.c_str());
    });
    seconds.push_back(s);
    state.SetIterationTime(s);
  }
  const double rate = e.bytes_moved / median(seconds);
  state.counters["GB/s"] = rate * 1e-9;
  state.counters["Gelem/s"] = static_cast<double>(m) * static_cast<double>(n) / median(seconds) * 1e-9;
  state.counters["of_bandwidth"] = rate / bandwidth().best();
  api.destroy(self);
}

void add(const std::string& id, const std::string& label, const Options& options, uint32_t op, tn_dtype dtype,
         int64_t m, int64_t n, int64_t rows = 0, uint32_t site = TN_SITE_WEIGHT) {
  for (const std::string& object : plugin_objects()) {
    if (object.find("/" + id + ".") == std::string::npos) continue;
    const std::string what = op == TN_QUANTIZER_ENCODE   ? "encode"
                             : op == TN_QUANTIZER_DECODE ? "decode"
                                                         : "linear" + std::to_string(rows);
    const std::string name = label + "/" + what + "/" + (dtype.code == TN_BFLOAT ? "bf16" : "f32") + "/" +
                             std::to_string(m) + "x" + std::to_string(n) + "/" + object_label(object);
    benchmark::RegisterBenchmark(name.c_str(),
                                 [=](benchmark::State& s) { run(s, object, options, op, site, dtype, m, n, rows); })
        ->UseManualTime()
        ->Iterations(9)
        ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace

int main(int argc, char** argv) {
  using tenon::sdk::kBF16, tenon::sdk::kF32;
  const int64_t m = 8192, n = 8192;
  for (const Options& o : {Options{}, Options{{"double_quant", "true"}}}) {
    const std::string label = o.empty() ? "nf4" : "nf4:double_quant";
    for (const tn_dtype d : {kBF16, kF32}) add("nf4", label, o, TN_QUANTIZER_DECODE, d, m, n);
    add("nf4", label, o, TN_QUANTIZER_DECODE, kBF16, 1024, 8192);  // stays in a large cache
    for (const tn_dtype d : {kBF16, kF32}) add("nf4", label, o, TN_QUANTIZER_ENCODE, d, m, n);
    for (const int64_t rows : {1, 4, 8}) add("nf4", label, o, TN_QUANTIZER_LINEAR, kF32, m, n, rows);
  }
  for (const tn_dtype d : {kBF16, kF32}) {
    add("blockwise-8bit", "blockwise-8bit", {}, TN_QUANTIZER_DECODE, d, m, n);
    add("blockwise-8bit", "blockwise-8bit", {}, TN_QUANTIZER_ENCODE, d, m, n);
  }
  for (const uint32_t op : {TN_QUANTIZER_ENCODE, TN_QUANTIZER_DECODE})
    for (const tn_dtype d : {kBF16, kF32}) {
      add("mesa-act8", "mesa-act8", {}, op, d, m, n, 0, TN_SITE_ACTIVATION);
      add("coat-fp8", "coat-fp8 activation", {}, op, d, m, n, 0, TN_SITE_ACTIVATION);
      add("coat-fp8", "coat-fp8 state", {}, op, d, m, n, 0, TN_SITE_OPTIMIZER_STATE);
    }
  for (const char* type :
       {"F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"}) {
    const Options o = {{"type", type}};
    add("gguf-blocks", type, o, TN_QUANTIZER_DECODE, kBF16, m, n);
    add("gguf-blocks", type, o, TN_QUANTIZER_ENCODE, kF32, m / 4, n);
    add("gguf-blocks", type, o, TN_QUANTIZER_LINEAR, kF32, m, n, 1);
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  std::printf("copy %.1f GB/s, triad %.1f GB/s, %d threads\n", median(bandwidth().copies) * 1e-9,
              median(bandwidth().triads) * 1e-9, omp_get_max_threads());
}
