// What codecs have in common: sizes of a target, declaring components, checking ranges, finding NaN and Inf while
// coding.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "sdk/device_memory.h"
#include "sdk/for_each.h"
#include "sdk/intrinsics.h"
#include "sdk/plugin.h"
#include "sdk/tensor.h"
#include "tenon/quantizer.h"

namespace tenon::sdk {

// Elements of the logical tensor; a shape that is negative or does not fit in 62 bits is refused.
inline int64_t elements(const tn_target& t) {
  if (t.ndim < 0 || t.ndim > 4)
    fail(TN_E_ARGUMENT, "a quantized tensor has at most 4 axes, this one has " + std::to_string(t.ndim));
  int64_t n = 1;
  for (int32_t i = 0; i < t.ndim; ++i)
    if (t.shape[i] < 0 || __builtin_mul_overflow(n, t.shape[i], &n) || n > int64_t{1} << 62)
      fail(TN_E_ARGUMENT, "the shape of a tensor to quantize is negative or too large");
  return n;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

inline std::string name_of(const tn_target& t) {
  return t.name && *t.name ? t.name : "the tensor";
}

// Declares a one-dimensional component.
inline void declare(const tn_component_sink& sink, const char* name, tn_dtype dtype, int64_t n,
                    uint32_t code_bits = 0, uint32_t flags = 0) {
  tn_component c{};
  c.flags = flags;
  c.struct_size = TN_SIZE_TO(tn_component, name);
  c.code_bits = code_bits;
  c.ndim = 1;
  c.dtype = dtype;
  c.shape[0] = n;
  c.name = name;
  check(sink.declare(sink.self, &c));
}

// Declares a component with two axes.
inline void declare_rows(const tn_component_sink& sink, const char* name, tn_dtype dtype, int64_t rows, int64_t columns,
                         uint32_t code_bits = 0, uint32_t flags = 0) {
  tn_component c{};
  c.flags = flags;
  c.struct_size = TN_SIZE_TO(tn_component, name);
  c.code_bits = code_bits;
  c.ndim = 2;
  c.dtype = dtype;
  c.shape[0] = rows, c.shape[1] = columns;
  c.name = name;
  check(sink.declare(sink.self, &c));
}

// A component as `declare` described it. Its memory may come from a mapped file: bytes need no alignment, other types
// do.
template <class T>
T* component(tn_tensor* const* components, int index, const char* what, int64_t n) {
  T* p = contiguous<T>(components[index], what);
  if (count(*components[index]) != n)
    fail(TN_E_ARGUMENT, std::string("component ") + what + " holds " + std::to_string(count(*components[index])) +
                            " values where " + std::to_string(n) + " belong");
  if (reinterpret_cast<uintptr_t>(p) % alignof(T))
    fail(TN_E_ARGUMENT, std::string("component ") + what + " is not aligned to its type");
  return p;
}

inline void check_source(const tn_target& target, const tn_tensor& src, int64_t n) {
  if (!is_contiguous(src))
    fail(TN_E_UNSUPPORTED, name_of(target) + ": a tensor to quantize must be contiguous and row-major");
  if (count(src) != n)
    fail(TN_E_ARGUMENT, name_of(target) + ": " + std::to_string(count(src)) +
                            " elements were passed where the target has " + std::to_string(n));
}

inline void check_range(const tn_target& target, int64_t n, int64_t begin, int64_t end, const tn_tensor& dst) {
  if (begin < 0 || begin > end || end > n)
    fail(TN_E_ARGUMENT, name_of(target) + ": the range [" + std::to_string(begin) + ", " + std::to_string(end) +
                            ") is not within its " + std::to_string(n) + " elements");
  if (!is_contiguous(dst))
    fail(TN_E_UNSUPPORTED, name_of(target) + ": the destination of a decode must be contiguous and row-major");
  if (count(dst) != end - begin)
    fail(TN_E_ARGUMENT, name_of(target) + ": the destination holds " + std::to_string(count(dst)) +
                            " elements for a range of " + std::to_string(end - begin));
}

// Scratch of n values from the host, as the matching estimate asked for.
template <class T>
T* workspace(const tn_exec* exec, int64_t n) {
  if (n > 0 && (!exec || !exec->workspace || exec->workspace_bytes < static_cast<uint64_t>(n) * sizeof(T)))
    fail(TN_E_ARGUMENT, "the workspace is smaller than the " + std::to_string(n * static_cast<int64_t>(sizeof(T))) +
                            " bytes that estimate asks for");
  return static_cast<T*>(exec ? exec->workspace : nullptr);
}

// The estimate of one operation; every field is set.
inline void set_estimate(tn_estimate& out, double flops, double bytes_moved, uint64_t state_bytes,
                         uint64_t workspace_bytes = 0) {
  out.state_bytes = state_bytes;
  out.saved_bytes = 0;
  out.workspace_bytes = workspace_bytes;
  out.flops = flops;
  out.bytes_moved = bytes_moved;
}

// dst[i] = src[i], rounded or widened. On the CPU, or by one thread of a GPU.
template <class To, class From>
TN_FN void convert(const From* src, To* dst, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)  // g++ 12 converts halves one at a time
  if constexpr (std::is_same_v<From, f16> && std::is_same_v<To, float>) {
    for (; i + 8 <= n; i += 8)
      _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(src + i))));
  } else if constexpr (std::is_same_v<From, float> && std::is_same_v<To, f16>) {
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
  }
#endif
  for (; i < n; ++i) dst[i] = from_float<To>(to_float(src[i]));
}

// The shapes of y[rows, m] = x[rows, n] W^T, checked. Leading axes of x and y are flattened.
struct Product {
  int64_t m, n, rows;
  Product(const tn_target& target, const tn_tensor& x, const tn_tensor& y, int64_t max_rows) {
    if (target.ndim != 2) fail(TN_E_UNSUPPORTED, name_of(target) + ": a product needs a weight with two axes");
    elements(target);
    m = target.shape[0], n = target.shape[1];
    if (!is_contiguous(x) || !is_contiguous(y))
      fail(TN_E_UNSUPPORTED, name_of(target) + ": x and y of a product must be contiguous and row-major");
    if (x.ndim < 1 || y.ndim < 1 || x.shape[x.ndim - 1] != n || y.shape[y.ndim - 1] != m)
      fail(TN_E_ARGUMENT, name_of(target) + ": the last axis of x must be " + std::to_string(n) + " and that of y " +
                              std::to_string(m));
    rows = 1;
    for (int32_t i = 0; i + 1 < x.ndim; ++i) rows *= x.shape[i];
    if (count(y) != rows * m)
      fail(TN_E_ARGUMENT, name_of(target) + ": y must have the " + std::to_string(rows) + " rows of x");
    if (rows > max_rows)
      fail(TN_E_UNSUPPORTED, name_of(target) + ": the fused product takes at most " + std::to_string(max_rows) +
                                 " rows, not " + std::to_string(rows) + "; decode and multiply instead");
  }
};

// Largest magnitude of x[0, n). NaN and Inf order above every finite number, so one comparison finds them all.
inline float absmax(const float* x, int64_t n) {
  uint32_t m = 0;
#pragma omp simd reduction(max : m)
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t u = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    m = u > m ? u : m;
  }
  return std::bit_cast<float>(m);
}
TN_FN bool is_finite(float x) {
  return (std::bit_cast<uint32_t>(x) & 0x7f800000u) != 0x7f800000u;
}

// Collects, from any number of threads, the first block that cannot be coded; `raise` refuses the tensor by name for
// NaN or Inf in it. A kernel captures found(), a copy. On a GPU the place is the first kBytes of the workspace, and
// asking waits for the kernels.
class FirstBad {
 public:
#if TN_GPU
  static constexpr int64_t kBytes = TN_ALIGNMENT;
  // slot: of several within kBytes, 0 to 7.
  explicit FirstBad(const tn_exec* exec, int slot = 0)
      : exec_(exec), place_(reinterpret_cast<int64_t*>(workspace<char>(exec, kBytes)) + slot) {
    fill_device(exec, place_, 0xff, sizeof(int64_t));
  }
  class Found {
   public:
    explicit Found(int64_t* place) : place_(place) {}
    TN_FN void operator()(int64_t block) const { gpu::atomic_min(place_, block); }

   private:
    int64_t* place_;
  };
  Found found() const { return Found(place_); }
  int64_t first() const {
    int64_t block = -1;
    copy_to_host(exec_, place_, &block, 1);
    return block;
  }

 private:
  const tn_exec* exec_;
  int64_t* place_;
#else
  static constexpr int64_t kBytes = 0;
  explicit FirstBad(const tn_exec*, int = 0) {}
  class Found {
   public:
    explicit Found(std::atomic<int64_t>* place) : place_(place) {}
    void operator()(int64_t block) const {
      int64_t seen = place_->load(std::memory_order_relaxed);
      while (static_cast<uint64_t>(block) < static_cast<uint64_t>(seen) &&
             !place_->compare_exchange_weak(seen, block, std::memory_order_relaxed)) {
      }
    }

   private:
    std::atomic<int64_t>* place_;
  };
  Found found() { return Found(&place_); }
  int64_t first() const { return place_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> place_{-1};
#endif
 public:
  // Refuses the tensor by name for NaN or Inf in its first bad block.
  void raise(const tn_target& target, int64_t blocksize) const {
    const int64_t block = first();
    if (block < 0) return;
    const int64_t n = elements(target), begin = block * blocksize, end = begin + blocksize < n ? begin + blocksize : n;
    fail(TN_E_NUMERIC, name_of(target) + ": NaN or Inf among elements " + std::to_string(begin) + " to " +
                           std::to_string(end - 1) + "; only finite weights can be quantized");
  }
};

// x in f32: itself, or a copy in the workspace.
inline const float* as_floats(const tn_exec* exec, const tn_tensor& x) {
  return with_float_type(x.dtype, "the input of a product", [&](auto type) -> const float* {
    using T = decltype(type);
    if constexpr (std::is_same_v<T, float>) {
      return data<const float>(x);
    } else {
      const int64_t n = count(x);
      float* copy = workspace<float>(exec, n);
      convert(data<const T>(x), copy, n);
      return copy;
    }
  });
}

// The answer to `supports` of a codec that is written for the CPU alone.
inline void require_cpu_floats(const tn_query& q, const char* id) {
  if (q.device.type != TN_CPU)
    fail(TN_E_UNSUPPORTED,
         std::string(id) + ": this object runs on the CPU only; install the object of the device's backend");
  with_float_type(q.dtype, (std::string(id) + ": a tensor to quantize").c_str(), [](auto) {});
}

// The answer to `supports` that codecs for every backend share.
inline void require_floats(const tn_query& q, const char* id) {
  require_own_device(id, q);
  with_float_type(q.dtype, (std::string(id) + ": a tensor to quantize").c_str(), [](auto) {});
}

}  // namespace tenon::sdk
