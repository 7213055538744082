// A small correct CPU device for the tests of techniques: they need no device plugin, and a fault there cannot hide one
// here. Products are plain loops over unpacked f32 operands; a product demands a workspace that depends on its shape and
// writes all of it, so that a technique that forgets a product in its estimate is caught.
#pragma once

#include <chrono>
#include <cstring>
#include <vector>

#include "sdk/testing/tensor.h"
#include "tenon/device.h"

struct tn_device {
  int64_t gemm_calls = 0;
  bool erratic = false;  // workspaces larger or smaller by no rule, of shapes, types and strides: as real devices have them
};
struct tn_event {
  std::chrono::steady_clock::time_point at;
};

namespace tenon::sdk::testing {

namespace fake {

inline float read(const tn_tensor& t, int64_t offset) {
  return with_float_type(t.dtype, "a product's operand", [&]<class T>(T) { return to_float(data<T>(t)[offset]); });
}

// The last two axes of a tensor of batch `b` as a dense f32 matrix [rows, columns].
inline std::vector<float> unpack(const tn_tensor& t, int64_t batch_offset) {
  const int64_t rows = t.shape[t.ndim - 2], columns = t.shape[t.ndim - 1], sr = t.strides[t.ndim - 2],
                sc = t.strides[t.ndim - 1];
  std::vector<float> out(static_cast<size_t>(rows * columns));
  with_float_type(t.dtype, "a product's operand", [&]<class T>(T) {
    const T* from = data<T>(t) + batch_offset;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) out[i * columns + j] = to_float(from[i * sr + j * sc]);
  });
  return out;
}

inline int64_t batches(const tn_tensor& t) {
  int64_t n = 1;
  for (int32_t i = 0; i + 2 < t.ndim; ++i) n *= t.shape[i];
  return n;
}
inline int64_t batch_offset(const tn_tensor& t, int64_t index) {
  int64_t offset = 0;
  for (int32_t i = t.ndim - 3; i >= 0; --i) offset += index % t.shape[i] * t.strides[i], index /= t.shape[i];
  return offset;
}

inline int32_t gemm_workspace(tn_device* device, const tn_gemm* g, uint64_t* n) {
  const tn_tensor &a = *g->a, &c = *g->c;
  *n = static_cast<uint64_t>(64 + 8 * (c.shape[c.ndim - 2] + c.shape[c.ndim - 1] + a.shape[a.ndim - 1]));
  if (!device || !device->erratic) return TN_OK;
  uint64_t h = 0x9E3779B97F4A7C15u;
  const auto mix = [&](int64_t v) { h = (h ^ static_cast<uint64_t>(v)) * 0xBF58476D1CE4E5B9u, h ^= h >> 29; };
  for (const tn_tensor* t : {g->a, g->b, const_cast<const tn_tensor*>(g->c)}) {
    mix(t->dtype.code * 256 + t->dtype.bits);
    for (int32_t i = 0; i < t->ndim; ++i) mix(t->shape[i]), mix(t->shape[i] > 1 ? t->strides[i] : 0);
  }
  return *n = 64 + 64 * (h % 61), TN_OK;
}

inline int32_t gemm(tn_device* device, tn_stream*, const tn_gemm* g, void* workspace, uint64_t workspace_bytes) {
  const DeviceMemory::Reach reach;
  const tn_tensor &a = *g->a, &b = *g->b, &c = *g->c;
  if (a.ndim < 2 || b.ndim != a.ndim || c.ndim != a.ndim || g->packed_b) return TN_E_ARGUMENT;
  const int64_t m = c.shape[c.ndim - 2], n = c.shape[c.ndim - 1], k = a.shape[a.ndim - 1];
  if (a.shape[a.ndim - 2] != m || b.shape[b.ndim - 2] != k || b.shape[b.ndim - 1] != n || batches(a) != batches(c) ||
      batches(b) != batches(c))
    return TN_E_ARGUMENT;
  uint64_t needed = 0;
  gemm_workspace(device, g, &needed);
  if (workspace_bytes < needed) return TN_E_MEMORY;
  std::memset(workspace, 0xFF, needed);
  if (device) ++device->gemm_calls;
  std::vector<float> row(static_cast<size_t>(n));
  for (int64_t batch = 0; batch < batches(c); ++batch) {
    const std::vector<float> pa = unpack(a, batch_offset(a, batch)), pb = unpack(b, batch_offset(b, batch));
    const int64_t at = batch_offset(c, batch), sr = c.strides[c.ndim - 2], sc = c.strides[c.ndim - 1];
    for (int64_t i = 0; i < m; ++i) {
      std::fill(row.begin(), row.end(), 0.0f);
      for (int64_t p = 0; p < k; ++p) {
        const float x = pa[i * k + p];
        const float* y = pb.data() + p * n;
        for (int64_t j = 0; j < n; ++j) row[j] += x * y[j];
      }
      with_float_type(c.dtype, "a product's result", [&]<class T>(T) {
        T* to = data<T>(c) + at + i * sr;
        for (int64_t j = 0; j < n; ++j) {
          double value = g->alpha * row[j];
          if (g->beta != 0) value += g->beta * to_float(to[j * sc]);  // beta = 0 never reads C
          if (g->bias) value += read(*g->bias, j * g->bias->strides[0]);
          to[j * sc] = from_float<T>(static_cast<float>(value));
        }
      });
    }
  }
  return TN_OK;
}

inline int32_t count_devices(const tn_host*, uint32_t* n) {
  return *n = 1, TN_OK;
}
inline int32_t open(const tn_host*, uint32_t, tn_device** out) {
  return *out = new tn_device, TN_OK;
}
inline void close(tn_device* device) {
  delete device;
}
inline int32_t info(tn_device*, uint32_t, tn_device_info* out) {
  *out = {};
  out->struct_size = sizeof *out;
  out->n_threads = 1;
  out->id = {TN_CPU, 0};
  std::strcpy(out->name, "test device");
  std::strcpy(out->arch, "any");
  out->gemm_dtype = kF32;
  out->gemm_flops = 1e9, out->bytes_per_second = 1e9;
  return TN_OK;
}
inline int32_t alloc(tn_device*, uint64_t n, void** out) {
  return *out = DeviceMemory::get().allocate(n), TN_OK;
}
inline void free(tn_device*, void* p) {
  DeviceMemory::get().release(static_cast<uint8_t*>(p));
}
inline int32_t copy(tn_device*, tn_stream*, void* to, const void* from, uint64_t n, uint32_t) {
  const DeviceMemory::Reach reach;
  return std::memcpy(to, from, n), TN_OK;
}
inline int32_t fill(tn_device*, tn_stream*, void* to, uint8_t byte, uint64_t n) {
  const DeviceMemory::Reach reach;
  return std::memset(to, byte, n), TN_OK;
}
inline int32_t stream_create(tn_device*, tn_stream** out) {
  return *out = new tn_stream(*DeviceMemory::stream()), TN_OK;
}
inline void stream_destroy(tn_device*, tn_stream* s) {
  delete s;
}
inline int32_t stream_wait(tn_device*, tn_stream*) {
  return TN_OK;
}
inline int32_t event_create(tn_device*, tn_event** out) {
  return *out = new tn_event, TN_OK;
}
inline void event_destroy(tn_device*, tn_event* e) {
  delete e;
}
inline int32_t event_record(tn_device*, tn_event* e, tn_stream*) {
  return e->at = std::chrono::steady_clock::now(), TN_OK;
}
inline int32_t stream_wait_event(tn_device*, tn_stream*, tn_event*) {
  return TN_OK;
}
inline int32_t event_seconds(tn_device*, tn_event* a, tn_event* b, double* s) {
  return *s = std::chrono::duration<double>(b->at - a->at).count(), TN_OK;
}
inline int32_t pack_bytes(tn_device*, const tn_gemm*, uint64_t* n) {
  return *n = 0, TN_OK;
}
inline int32_t pack(tn_device*, tn_stream*, const tn_gemm*, void*) {
  return TN_E_UNSUPPORTED;
}
inline const void* get_extension(const char*) {
  return nullptr;
}

inline constexpr tn_device_api kApi = {TN_SIZE_TO(tn_device_api, get_extension),
                                       0,
                                       count_devices,
                                       open,
                                       close,
                                       info,
                                       alloc,
                                       free,
                                       copy,
                                       fill,
                                       stream_create,
                                       stream_destroy,
                                       stream_wait,
                                       event_create,
                                       event_destroy,
                                       event_record,
                                       stream_wait_event,
                                       event_seconds,
                                       gemm_workspace,
                                       gemm,
                                       pack_bytes,
                                       pack,
                                       get_extension};

}  // namespace fake

inline const tn_device_api* cpu_device_api() {
  return &fake::kApi;
}
inline tn_device* cpu_device() {
  static tn_device device;
  return &device;
}

// Where a call runs, with a workspace of exactly the bytes that were asked for, filled with NaN, fenced. From get() to intact(), poison() or
// its end the memory of a GPU's tensors is closed to the host.
class Exec {
 public:
  explicit Exec(uint64_t workspace_bytes = 0) : memory_(workspace_bytes, 0xFF) {
    exec_ = {sizeof(tn_exec), 0, cpu_device_api(), cpu_device(), DeviceMemory::stream(), memory_.data(), workspace_bytes};
  }
  Exec(const Exec&) = delete;
  ~Exec() { DeviceMemory::get().open(); }
  const tn_exec* get() const {
    DeviceMemory::get().close();
    return &exec_;
  }
  bool intact() const {
    DeviceMemory::get().open();
    return memory_.intact();
  }
  void poison() {
    DeviceMemory::get().open();
    std::memset(memory_.data(), 0xFF, memory_.size());
  }

 private:
  Memory memory_;
  tn_exec exec_;
};

}  // namespace tenon::sdk::testing
