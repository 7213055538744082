#include "device.h"

#include <algorithm>
#include <cstdio>

namespace tenon::benchmarks {

Device::Device(const std::string& object) {
  const tn_plugin& plugin = sdk::testing::load_plugin(host, object);
  api = static_cast<const tn_device_api*>(plugin.api);
  ops = static_cast<const tn_ops*>(api->get_extension(TN_EXT_OPS));
  require(*this, api->open(host.get(), 0, &handle));
  info.struct_size = sizeof info;
  require(*this, api->info(handle, 1, &info));
  std::printf("%s, %s, %s, %u threads: %.0f GFLOP/s in %s, %.1f GB/s\n", info.name, info.arch, info.runtime,
              info.n_threads, info.gemm_flops * 1e-9, sdk::same(info.gemm_dtype, sdk::kBF16) ? "bf16" : "f32",
              info.bytes_per_second * 1e-9);
}

Device::~Device() {
  api->close(handle);
}

void require(const Device& device, int32_t status) {
  if (status >= 0) return;
  std::fprintf(stderr, "%s\n", device.host.error.c_str());
  std::exit(1);
}

std::vector<double> median_seconds(const std::vector<std::function<void()>>& candidates, double seconds) {
  const auto now = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  std::vector<std::vector<double>> all(candidates.size());
  for (const auto& run : candidates) run();  // code generation, page faults
  const double end = now() + seconds;
  for (int round = 0; round < 7 || now() < end; ++round)
    for (size_t i = 0; i < candidates.size(); ++i) {
      const double begin = now();
      candidates[i]();
      all[i].push_back(now() - begin);
    }
  std::vector<double> medians;
  for (auto& seconds : all) {
    std::nth_element(seconds.begin(), seconds.begin() + static_cast<int64_t>(seconds.size() / 2), seconds.end());
    medians.push_back(seconds[seconds.size() / 2]);
  }
  return medians;
}

}  // namespace tenon::benchmarks
