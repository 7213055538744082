// The SDK's ground: what marks a function for every backend, and how a plugin fails.
#pragma once

#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <utility>

#include "tenon/plugin.h"

// A function that g++, nvcc and hipcc all compile into kernels.
#if defined(__CUDACC__) || defined(__HIPCC__)
#define TN_FN __host__ __device__ __forceinline__
#else
#define TN_FN inline __attribute__((always_inline))
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
