// The SDK's ground: what marks a function for every backend, and how a plugin fails.
#pragma once

#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <utility>

#include "tenon/plugin.h"

// TN_GPU: this object is compiled for a GPU backend: by nvcc (CUDA), by clang in HIP mode, or, for tests, by an ordinary compiler that
// emulates a GPU with waves of TENON_EMULATED_WAVE threads. Then memory in tensors is the device's: code outside kernels never touches it.
#if defined(__CUDACC__)
#define TN_GPU 1
#elif defined(__HIP__)
#define TN_GPU 1
#include <hip/hip_runtime.h>
#elif defined(TENON_EMULATED_WAVE)
#define TN_GPU 1
#else
#define TN_GPU 0
#endif

// TN_FN: a function that g++, nvcc and clang all compile into kernels. TN_KERNEL, between captures and parameters, marks a lambda that is
// passed to for_each or for_each_block. nvcc takes such a lambda in free functions and public members only, and not inside a generic lambda.
#if defined(__CUDACC__) || defined(__HIP__)
#define TN_FN __host__ __device__ __forceinline__
#define TN_KERNEL __device__
#else
#define TN_FN inline __attribute__((always_inline))
#define TN_KERNEL
#endif
// TN_TABLE(type, name, value): a constant table that kernels index. A constexpr object has no address on a GPU, so its twin in device memory
// stands beside it; TN_TABLE_OF(name) is the one of the side that runs.
#if defined(__CUDACC__) || defined(__HIP__)
#define TN_TABLE(type, name, ...)       \
  inline constexpr type name = __VA_ARGS__; \
  static __device__ const type name##_on_device = __VA_ARGS__
#else
#define TN_TABLE(type, name, ...) inline constexpr type name = __VA_ARGS__
#endif
#if defined(__CUDA_ARCH__) || defined(__HIP_DEVICE_COMPILE__)
#define TN_TABLE_OF(name) name##_on_device
#else
#define TN_TABLE_OF(name) name
#endif

namespace tenon::sdk {

// Thrown inside a plugin, turned into status and sentence at its border; never crosses the ABI.
struct Failure {
  int32_t status;
  std::string sentence;
};

[[noreturn]] inline void fail(int32_t status, std::string sentence) { throw Failure{status, std::move(sentence)}; }

// A failed call into the host or the device has already reported its sentence.
struct Reported {
  int32_t status;
};
inline void check(int32_t status) {
  if (status < 0) throw Reported{status};
}

// Runs `body` and answers its status. No exception leaves. `body` returns void (TN_OK) or an int32_t status.
template <class Body>
int32_t guard(const tn_host* host, Body&& body) noexcept {
  try {
    if constexpr (std::is_void_v<decltype(body())>) {
      body();
      return TN_OK;
    } else {
      return body();
    }
  } catch (const Reported& e) {
    return e.status;
  } catch (const Failure& e) {
    host->error(host, e.status, e.sentence.c_str());
    return e.status;
  } catch (const std::bad_alloc&) {
    host->error(host, TN_E_MEMORY, "the plugin ran out of host memory");
    return TN_E_MEMORY;
  } catch (const std::exception& e) {
    host->error(host, TN_E_INTERNAL, e.what());
    return TN_E_INTERNAL;
  } catch (...) {
    host->error(host, TN_E_INTERNAL, "an unknown exception was stopped at the plugin's border");
    return TN_E_INTERNAL;
  }
}

}  // namespace tenon::sdk
