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

using sdk::gpu::ignore;
using sdk::gpu::require;

// What a measurement needs beside memory; given back whatever happens.
struct Bench {
  Stream stream{};
  Event begin{}, end{};
  void* memory = nullptr;
  Bench() = default;
  Bench(const Bench&) = delete;
  ~Bench() {
    ignore(release(memory, false));
    if (begin) ignore(event_destroy(begin));
    if (end) ignore(event_destroy(end));
    if (stream) ignore(stream_destroy(stream));
  }
  // Seconds of one of kRounds rounds; the first is not timed.
  template <class Work>
  double seconds(Work work) {
    work();
    require(event_record(begin, stream), "recording an event");
    for (int i = 0; i < kRounds; ++i) work();
    require(event_record(end, stream), "recording an event");
    double total = 0;
    require(event_seconds(begin, end, &total), "reading a time");
    return total / kRounds;
  }
};

}  // namespace

void measure(tn_device* device) {
  if (device->gemm_flops > 0) return;
  const int64_t n = kOrder * kOrder * 2;  // bytes of a bf16 matrix
  Bench bench;
  int64_t shape[] = {kOrder, kOrder}, strides[] = {kOrder, 1};
  const auto matrix = [&](int64_t index) {
    return tn_tensor{static_cast<char*>(bench.memory) + index * n, {kDeviceType, device->index}, 2, sdk::kBF16, shape, strides, 0};
  };
  tn_tensor a = matrix(0), b = matrix(1), c = matrix(2);
  tn_gemm g{sizeof(tn_gemm), 0, &a, &b, &c, nullptr, 1, 0, nullptr};
  const uint64_t workspace = gemm_workspace(device, g);
  if (const Status s = allocate(&bench.memory, static_cast<uint64_t>(3 * n) + workspace, false); s != kSuccess) return ignore(s);  // a full card stays unmeasured
  require(stream_create(&bench.stream), "creating a stream");
  require(event_create(&bench.begin), "creating an event");
  require(event_create(&bench.end), "creating an event");
  require(fill(bench.memory, 0, static_cast<uint64_t>(3 * n), bench.stream), "filling memory");
  a = matrix(0), b = matrix(1), c = matrix(2);
  char* const base = static_cast<char*>(bench.memory);
  tn_stream* const stream = reinterpret_cast<tn_stream*>(bench.stream);
  device->bytes_per_second = 2.0 * static_cast<double>(n) /
                             bench.seconds([&] { require(copy(base + n, base, static_cast<uint64_t>(n), TN_COPY_WITHIN, bench.stream), "a copy"); });
  device->gemm_flops = 2.0 * kOrder * kOrder * kOrder / bench.seconds([&] { gemm(device, stream, g, base + 3 * n, workspace); });
  device->gemm_dtype = sdk::kBF16;
}

}  // namespace tenon::gpu
