// Speeds of the device, timed once with its own events.
#include "devices/gpu/device.h"
#include "sdk/dtype.h"

namespace tenon::gpu {
namespace {

#if defined(TENON_EMULATED_WAVE)
constexpr int64_t kOrder = 64;  // an emulated product takes its time
#else
constexpr int64_t kOrder = 4096;
#endif
constexpr int kRounds = 8;

using sdk::gpu::require;

// Seconds of one of kRounds rounds; the first is not timed.
template <class Work>
double seconds(Work work) {
  Event begin{}, end{};
  require(event_create(&begin), "creating an event");
  require(event_create(&end), "creating an event");
  work();
  require(event_record(begin, nullptr), "recording an event");
  for (int i = 0; i < kRounds; ++i) work();
  require(event_record(end, nullptr), "recording an event");
  double total = 0;
  require(event_seconds(begin, end, &total), "reading a time");
  (void)event_destroy(begin), (void)event_destroy(end);
  return total / kRounds;
}

}  // namespace

void measure(tn_device* device) {
  if (device->gemm_flops > 0) return;
  const int64_t n = kOrder * kOrder * 2;  // bytes of a bf16 matrix
  void* memory = nullptr;
  int64_t shape[] = {kOrder, kOrder}, strides[] = {kOrder, 1};
  const auto matrix = [&](int64_t index) {
    return tn_tensor{static_cast<char*>(memory) + index * n, {kDeviceType, device->index}, 2, sdk::kBF16, shape, strides, 0};
  };
  tn_tensor a = matrix(0), b = matrix(1), c = matrix(2);
  tn_gemm g{sizeof(tn_gemm), 0, &a, &b, &c, nullptr, 1, 0, nullptr};
  const uint64_t workspace = gemm_workspace(device, g);
  if (allocate(&memory, static_cast<uint64_t>(3 * n) + workspace, false) != kSuccess) {
    (void)sdk::gpu::last_error();
    return;  // a full card stays unmeasured
  }
  try {
    require(fill(memory, 0, static_cast<uint64_t>(3 * n), nullptr), "filling memory");
    a = matrix(0), b = matrix(1), c = matrix(2);
    char* const base = static_cast<char*>(memory);
    device->bytes_per_second = 2.0 * static_cast<double>(n) /
                               seconds([&] { require(copy(base + n, base, static_cast<uint64_t>(n), TN_COPY_WITHIN, nullptr), "a copy"); });
    device->gemm_flops = 2.0 * kOrder * kOrder * kOrder / seconds([&] { gemm(device, nullptr, g, base + 3 * n, workspace); });
    device->gemm_dtype = sdk::kBF16;
  } catch (...) {
    (void)release(memory, false);
    throw;
  }
  (void)release(memory, false);
}

}  // namespace tenon::gpu
