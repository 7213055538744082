// The calls of the vendor's runtime that the device makes, written once: CUDA's and HIP's differ in their prefix alone. Compiled by nvcc with
// TENON_HIP_OVER_CUDA it is HIP's names that are used, mapped to CUDA's, so that the HIP device can be run on an NVIDIA card.
#pragma once

#include "devices/gpu/architectures.h"
#include "sdk/gpu/runtime.h"
#include "tenon/device.h"

#if defined(TENON_EMULATED_WAVE)
#include "devices/gpu/emulated_calls.h"
#else

namespace tenon::gpu {

using sdk::gpu::Event;
using sdk::gpu::kSuccess;
using sdk::gpu::Status;
using sdk::gpu::Stream;

inline Status device_count(int* n) { return TN_GPU_NAME(GetDeviceCount)(n); }
inline Status set_device(int index) { return TN_GPU_NAME(SetDevice)(index); }
inline Status memory_info(size_t* free, size_t* total) { return TN_GPU_NAME(MemGetInfo)(free, total); }
inline Status synchronize() { return TN_GPU_NAME(DeviceSynchronize)(); }

inline Status allocate(void** out, uint64_t n, bool pooled) {
  return pooled ? TN_GPU_NAME(MallocAsync)(out, n, nullptr) : TN_GPU_NAME(Malloc)(out, n);
}
inline Status release(void* memory, bool pooled) { return pooled ? TN_GPU_NAME(FreeAsync)(memory, nullptr) : TN_GPU_NAME(Free)(memory); }
// Pooled memory that was released comes back when the work before it is done: waits for that, and gives what the pool keeps to whoever asks next.
inline Status reclaim(int index) {
  TN_GPU_NAME(MemPool_t) pool{};
  Status s = synchronize();
  if (s == kSuccess) s = TN_GPU_NAME(DeviceGetDefaultMemPool)(&pool, index);
  return s == kSuccess ? TN_GPU_NAME(MemPoolTrimTo)(pool, 0) : s;
}
// Page-locked memory of the host.
#if TN_HIP
inline Status host_allocate(void** out, uint64_t n) { return hipHostMalloc(out, n, hipHostMallocDefault); }
inline Status host_release(void* memory) { return hipHostFree(memory); }
#else
inline Status host_allocate(void** out, uint64_t n) { return cudaHostAlloc(out, n, cudaHostAllocDefault); }
inline Status host_release(void* memory) { return cudaFreeHost(memory); }
#endif
inline Status copy(void* to, const void* from, uint64_t n, uint32_t direction, Stream stream) {
  const auto kind = direction == TN_COPY_TO_DEVICE ? TN_GPU_NAME(MemcpyHostToDevice)
                    : direction == TN_COPY_TO_HOST ? TN_GPU_NAME(MemcpyDeviceToHost)
                                                   : TN_GPU_NAME(MemcpyDeviceToDevice);
  return TN_GPU_NAME(MemcpyAsync)(to, from, n, kind, stream);
}
// Whether a copy from ordinary host memory may read it after the call has returned: where the card walks the host's page tables itself (Grace) nothing
// need be staged, and the call promises nothing.
inline bool reads_later([[maybe_unused]] int index, [[maybe_unused]] const void* from) {
#if !TN_HIP
  int walks = 0;
  sdk::gpu::ignore(cudaDeviceGetAttribute(&walks, cudaDevAttrPageableMemoryAccessUsesHostPageTables, index));
  if (walks == 0) return false;
  cudaPointerAttributes of{};
  sdk::gpu::ignore(cudaPointerGetAttributes(&of, from));
  return of.type == cudaMemoryTypeUnregistered;
#else
  return false;
#endif
}
inline Status fill(void* to, uint8_t byte, uint64_t n, Stream stream) { return TN_GPU_NAME(MemsetAsync)(to, byte, n, stream); }

inline Status stream_create(Stream* out) { return TN_GPU_NAME(StreamCreate)(out); }
inline Status stream_destroy(Stream stream) { return TN_GPU_NAME(StreamDestroy)(stream); }
inline Status stream_wait(Stream stream) { return TN_GPU_NAME(StreamSynchronize)(stream); }
inline Status event_create(Event* out) { return TN_GPU_NAME(EventCreate)(out); }
inline Status event_destroy(Event event) { return TN_GPU_NAME(EventDestroy)(event); }
inline Status event_record(Event event, Stream stream) { return TN_GPU_NAME(EventRecord)(event, stream); }
inline Status stream_wait_event(Stream stream, Event event) { return TN_GPU_NAME(StreamWaitEvent)(stream, event, 0); }
inline Status event_seconds(Event begin, Event end, double* seconds) {
  float milliseconds = 0;
  Status s = TN_GPU_NAME(EventSynchronize)(end);
  if (s == kSuccess) s = TN_GPU_NAME(EventElapsedTime)(&milliseconds, begin, end);
  *seconds = 1e-3 * milliseconds;
  return s;
}

struct Properties {
  std::string name, arch;  // "NVIDIA H200", "sm_90"; "gfx942"
  int multiprocessors = 0;
  bool pools = false;   // stream-ordered allocation
  bool capable = true;  // of running this object's code
};
// What it asks of a card, for the sentence of a refusal.
inline constexpr const char* kNeeds = "this build holds code for " TENON_ARCHITECTURES ", of which the card must be able to run some";
inline Status properties(int index, Properties* out) {
#if TN_HIP
  hipDeviceProp_t p{};
  const Status s = hipGetDeviceProperties(&p, index);
  const std::string arch = p.gcnArchName;
  out->arch = arch.substr(0, arch.find(':'));
#if defined(TENON_HIP_OVER_CUDA)
  out->capable = cuda_code_runs(TENON_ARCHITECTURES, 10 * p.major + p.minor);
#else
  out->capable = hip_code_runs(TENON_ARCHITECTURES, arch);
#endif
  int pools = 0;
  sdk::gpu::ignore(hipDeviceGetAttribute(&pools, hipDeviceAttributeMemoryPoolsSupported, index));
#else
  cudaDeviceProp p{};
  const Status s = cudaGetDeviceProperties(&p, index);
  out->arch = "sm_" + std::to_string(10 * p.major + p.minor);
  out->capable = p.major >= 8 && cuda_code_runs(TENON_ARCHITECTURES, 10 * p.major + p.minor);
  int pools = 0;
  sdk::gpu::ignore(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, index));
#endif
  out->name = p.name, out->multiprocessors = p.multiProcessorCount, out->pools = pools != 0;
  return s;
}
// "CUDA 13.0, driver 13.0".
inline std::string versions() {
  int runtime = 0, driver = 0;
  sdk::gpu::ignore(TN_GPU_NAME(RuntimeGetVersion)(&runtime));
  sdk::gpu::ignore(TN_GPU_NAME(DriverGetVersion)(&driver));
#if TN_HIP
  const auto text = [](int v) { return std::to_string(v / 10000000) + "." + std::to_string(v / 100000 % 100); };
#else
  const auto text = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
#endif
  return TN_GPU_VENDOR " " + text(runtime) + ", driver " + text(driver);
}

}  // namespace tenon::gpu

#endif
