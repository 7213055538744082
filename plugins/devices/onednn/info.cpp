#include "devices/onednn/info.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "devices/onednn/choose_type.h"
#include "devices/onednn/cpu.h"
#include "devices/onednn/device.h"
#include "devices/onednn/matmul.h"
#include "devices/onednn/memory.h"
#include "sdk/dtype.h"

namespace tenon::onednn {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Bytes read and written per second: the best of copy and triad over three buffers that together exceed four last-level
// caches.
double measure_bandwidth(tn_device* device) {
  const uint64_t each = std::min<uint64_t>(256u << 20, std::max<uint64_t>(48u << 20, last_cache_bytes() * 3 / 2));
  void* blocks[3] = {};
  double best = 0;
  const int64_t n = static_cast<int64_t>(each / sizeof(float));
  bool complete = true;
  for (void*& b : blocks) complete = complete && allocate(device, each, &b) == TN_OK;
  if (complete) {
    auto *const a = static_cast<float*>(blocks[0]), *const b = static_cast<float*>(blocks[1]),
                *const c = static_cast<float*>(blocks[2]);
    for (void* p : blocks) fill(device, nullptr, p, 0, each);
    for (int i = 0; i < 5; ++i) {
      double begin = now();
      copy(device, nullptr, a, b, each, TN_COPY_WITHIN);
      best = std::max(best, 2.0 * static_cast<double>(each) / (now() - begin));
      begin = now();
#pragma omp parallel for simd schedule(static)
      for (int64_t j = 0; j < n; ++j) a[j] = b[j] + 0.5f * c[j];
      best = std::max(best, 3.0 * static_cast<double>(each) / (now() - begin));
    }
  }
  for (void* p : blocks) release(device, p);
  return best;
}

void put(char* to, size_t size, const std::string& text) {
  const size_t n = std::min(size - 1, text.size());
  std::memcpy(to, text.data(), n);
  to[n] = 0;
}

}  // namespace

int32_t info(tn_device* device, uint32_t measure, tn_device_info* out) {
  return sdk::guard(device->host, [&] {
    if (!out || out->struct_size < sizeof(uint32_t))
      sdk::fail(TN_E_ARGUMENT, "the device information has no struct_size");
    tn_device_info i{};
    const SystemMemory memory = system_memory();
    i.n_threads = static_cast<uint32_t>(omp_get_max_threads());
    i.id = {TN_CPU, 0};
    put(i.name, sizeof i.name, cpu_name());
    put(i.arch, sizeof i.arch, cpu_arch());
    put(i.runtime, sizeof i.runtime, runtime_name());
    i.total_bytes = memory.total_bytes, i.free_bytes = memory.free_bytes;
    const bool bf16 = bf16_is_fast();
    i.gemm_dtype = bf16 ? sdk::kBF16 : sdk::kF32;
    {
      const std::lock_guard lock(device->speeds_mutex);
      if (measure && device->speeds.gemm_flops == 0) {
        device->speeds.gemm_flops = measure_gemm(bf16, 1024, 1024, 1024, 0.1);
        device->speeds.bytes_per_second = measure_bandwidth(device);
      }
      i.gemm_flops = device->speeds.gemm_flops, i.bytes_per_second = device->speeds.bytes_per_second;
    }
    i.struct_size = std::min<uint32_t>(out->struct_size, TN_SIZE_TO(tn_device_info, bytes_per_second));
    std::memcpy(out, &i, i.struct_size);
  });
}

}  // namespace tenon::onednn
