// The vendor's runtime under one set of names, so that host code is written once: CUDA's, HIP's (its calls are CUDA's under other names), or
// the emulation's.
#pragma once

#include "sdk/base.h"
#include "tenon/host.h"

// TN_HIP: the calls are HIP's, of an AMD card or, over the map of hip_over_cuda.h, of an NVIDIA one.
#if defined(__HIP__) || defined(TENON_HIP_OVER_CUDA)
#define TN_HIP 1
#define TN_GPU_VENDOR "HIP"
#else
#define TN_HIP 0
#define TN_GPU_VENDOR "CUDA"
#endif

#if defined(TENON_EMULATED_WAVE)
#include "sdk/gpu/emulated_runtime.h"
#else

#if defined(TENON_HIP_OVER_CUDA)
#include "sdk/gpu/hip_over_cuda.h"
#endif
#if TN_HIP
#define TN_GPU_NAME(name) hip##name
#else
#include <cuda_runtime.h>
#define TN_GPU_NAME(name) cuda##name
#endif

namespace tenon::sdk::gpu {

using Status = TN_GPU_NAME(Error_t);
using Stream = TN_GPU_NAME(Stream_t);
using Event = TN_GPU_NAME(Event_t);
inline constexpr Status kSuccess = TN_GPU_NAME(Success), kOutOfMemory = TN_GPU_NAME(ErrorMemoryAllocation);

inline const char* message(Status s) { return TN_GPU_NAME(GetErrorString)(s); }
inline Status last_error() { return TN_GPU_NAME(GetLastError)(); }

// Shared memory that a kernel may ask for.
inline int shared_limit() {
  int device = 0, bytes = 48 << 10;
  (void)TN_GPU_NAME(GetDevice)(&device);
#if TN_HIP
  (void)hipDeviceGetAttribute(&bytes, hipDeviceAttributeMaxSharedMemoryPerBlock, device);
#else
  (void)cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
#endif
  return bytes;
}
template <class Kernel>
Status allow_shared(Kernel* kernel, int64_t bytes) {
#if TN_HIP
  return hipFuncSetAttribute(reinterpret_cast<const void*>(kernel), hipFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
#else
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
#endif
}

}  // namespace tenon::sdk::gpu

#endif

namespace tenon::sdk::gpu {

// Refuses with what was attempted and the vendor's words.
inline void require(Status s, const char* what) {
  if (s == kSuccess) return;
  (void)last_error();  // or the next check would find it again
  fail(s == kOutOfMemory ? TN_E_MEMORY : TN_E_DEVICE, std::string(what) + " failed on the GPU: " + message(s));
}

// For calls whose failure changes nothing: the next check shall not find it.
inline void ignore(Status s) {
  if (s != kSuccess) (void)last_error();
}

#if !defined(TENON_EMULATED_WAVE)
// Streams cross the ABI as the vendor's own handles.
inline Stream stream_of(const tn_stream* stream) { return reinterpret_cast<Stream>(const_cast<tn_stream*>(stream)); }
// Makes a stream's card the one that launches of this thread go to: another of several may have been used since.
inline void choose_card_of(Stream stream) {
#if TN_HIP
  int device = -1;
  if (stream) device = hipGetStreamDeviceId(stream);
#elif CUDART_VERSION >= 12080
  int device = -1;
  if (stream) ignore(cudaStreamGetDevice(stream, &device));
#else
  const int device = -1;  // the one that the device's own calls have chosen for this thread
#endif
  if (device >= 0) require(TN_GPU_NAME(SetDevice)(device), "choosing the device");
}
#endif

}  // namespace tenon::sdk::gpu
