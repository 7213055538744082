// HIP's names over CUDA's runtime: with TENON_HIP_OVER_CUDA nvcc compiles the HIP sources, so that the host code of the HIP device, and what
// it asks of HIP, runs on an NVIDIA card. Only the names that Tenon uses; waves have CUDA's 32 threads.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>

using hipError_t = cudaError_t;
using hipStream_t = cudaStream_t;
using hipEvent_t = cudaEvent_t;
using hipMemcpyKind = cudaMemcpyKind;
using hipMemPool_t = cudaMemPool_t;
inline constexpr hipError_t hipSuccess = cudaSuccess, hipErrorMemoryAllocation = cudaErrorMemoryAllocation;
inline constexpr hipMemcpyKind hipMemcpyHostToDevice = cudaMemcpyHostToDevice, hipMemcpyDeviceToHost = cudaMemcpyDeviceToHost,
                               hipMemcpyDeviceToDevice = cudaMemcpyDeviceToDevice;
inline constexpr auto hipDeviceAttributeMaxSharedMemoryPerBlock = cudaDevAttrMaxSharedMemoryPerBlockOptin;
inline constexpr auto hipDeviceAttributeMemoryPoolsSupported = cudaDevAttrMemoryPoolsSupported;
inline constexpr auto hipFuncAttributeMaxDynamicSharedMemorySize = cudaFuncAttributeMaxDynamicSharedMemorySize;
inline constexpr unsigned hipHostMallocDefault = cudaHostAllocDefault;

// The properties that HIP adds: "sm_90" where an AMD card says "gfx90a".
struct hipDeviceProp_t : cudaDeviceProp {
  char gcnArchName[256];
};
inline hipError_t hipGetDeviceProperties(hipDeviceProp_t* out, int device) {
  const hipError_t s = cudaGetDeviceProperties(out, device);
  std::snprintf(out->gcnArchName, sizeof out->gcnArchName, "sm_%d", 10 * out->major + out->minor);
  return s;
}

#define TN_HIP_AS_CUDA(name)                                                                            \
  template <class... Args>                                                                              \
  inline auto hip##name(Args&&... args) -> decltype(cuda##name(static_cast<Args&&>(args)...)) {         \
    return cuda##name(static_cast<Args&&>(args)...);                                                    \
  }
TN_HIP_AS_CUDA(GetErrorString)
TN_HIP_AS_CUDA(GetLastError)
TN_HIP_AS_CUDA(GetDevice)
TN_HIP_AS_CUDA(SetDevice)
TN_HIP_AS_CUDA(GetDeviceCount)
TN_HIP_AS_CUDA(DeviceGetAttribute)
TN_HIP_AS_CUDA(DeviceSynchronize)
TN_HIP_AS_CUDA(FuncSetAttribute)
TN_HIP_AS_CUDA(RuntimeGetVersion)
TN_HIP_AS_CUDA(DriverGetVersion)
TN_HIP_AS_CUDA(MemGetInfo)
TN_HIP_AS_CUDA(Malloc)
TN_HIP_AS_CUDA(MallocAsync)
TN_HIP_AS_CUDA(DeviceGetDefaultMemPool)
TN_HIP_AS_CUDA(MemPoolTrimTo)
TN_HIP_AS_CUDA(Free)
TN_HIP_AS_CUDA(FreeAsync)
TN_HIP_AS_CUDA(MemcpyAsync)
TN_HIP_AS_CUDA(MemsetAsync)
TN_HIP_AS_CUDA(StreamCreate)
TN_HIP_AS_CUDA(StreamDestroy)
TN_HIP_AS_CUDA(StreamSynchronize)
TN_HIP_AS_CUDA(StreamWaitEvent)
TN_HIP_AS_CUDA(EventCreate)
TN_HIP_AS_CUDA(EventDestroy)
TN_HIP_AS_CUDA(EventRecord)
TN_HIP_AS_CUDA(EventSynchronize)
TN_HIP_AS_CUDA(EventElapsedTime)
#undef TN_HIP_AS_CUDA
inline int hipGetStreamDeviceId(hipStream_t stream) {
  int device = -1;
#if CUDART_VERSION >= 12080
  if (cudaStreamGetDevice(stream, &device) != cudaSuccess) (void)cudaGetLastError();
#else
  (void)stream;
#endif
  return device;
}
inline hipError_t hipHostMalloc(void** out, size_t n, unsigned flags) { return cudaHostAlloc(out, n, flags); }
inline hipError_t hipHostFree(void* memory) { return cudaFreeHost(memory); }
