// What stands behind the opaque handle of a GPU. Streams and events are the vendor's own handles.
#pragma once

#include <map>
#include <mutex>

#include "devices/gpu/product.h"
#include "tenon/gemm8.h"
#include "tenon/gemm_fp8.h"

struct tn_device {
  const tn_host* host;
  int index;
  tenon::gpu::Properties properties;
  std::unique_ptr<tenon::gpu::Blas> blas;
  std::string without_blas;  // why there is none
  std::mutex mutex;          // of blas, and of what follows
  void* scratch = nullptr;   // of the operators, for all streams: they are ordered by the one stream a host uses, or by waiting
  double gemm_flops = 0, bytes_per_second = 0;
  tn_dtype gemm_dtype{};
};

namespace tenon::gpu {

#if TN_HIP
inline constexpr const char* kId = "hip";
#if defined(TENON_HIP_OVER_CUDA)
inline constexpr int32_t kDeviceType = TN_CUDA;  // what its memory is
#else
inline constexpr int32_t kDeviceType = TN_ROCM;
#endif
#elif defined(TENON_EMULATED_WAVE)
inline constexpr const char* kId = "emulated";
inline constexpr int32_t kDeviceType = 12;  // DLPack's extension device
#else
inline constexpr const char* kId = "cuda";
inline constexpr int32_t kDeviceType = TN_CUDA;
#endif

inline Stream stream_of(tn_stream* s) { return reinterpret_cast<Stream>(s); }
inline Event event_of(tn_event* e) { return reinterpret_cast<Event>(e); }

// Runs body with the device current for this thread; answers its status.
template <class Body>
int32_t on(tn_device* device, Body&& body) {
  return sdk::guard(device->host, [&] {
    sdk::gpu::require(set_device(device->index), "choosing the device");
    body();
  });
}

// Products of any types and strides; gemm.cpp.
uint64_t gemm_workspace(tn_device* device, const tn_gemm& gemm);
void gemm(tn_device* device, tn_stream* stream, const tn_gemm& gemm, void* workspace, uint64_t bytes);
// Products of 8-bit integers; gemm8.cpp.
const tn_gemm8* gemm8_table();
// Products of E4M3 by the library; gemm_fp8.cpp. False: it does not take them.
bool fp8_workspace(tn_device* device, const tn_fp8_product& product, uint64_t* n_bytes);
bool fp8_product(tn_device* device, tn_stream* stream, const tn_fp8_product& product, void* workspace, uint64_t workspace_bytes);
// Copy bandwidth and the rate of products, timed once.
void measure(tn_device* device);

}  // namespace tenon::gpu
