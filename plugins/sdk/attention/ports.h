// The ports of a call: found by id, checked against the shapes that the contract fixes, read and written row by row in
// f32.
#pragma once

#include <string>

#include "sdk/prefetch.h"
#include "sdk/tensor.h"
#include "tenon/attention.h"

namespace tenon::sdk {

class Ports {
 public:
  Ports(const tn_port_bind* const* binds, uint64_t n) : binds_(binds), n_(n) {}
  const tn_port_bind* find(uint32_t port) const {
    for (uint64_t i = 0; i < n_; ++i)
      if (binds_[i]->port == port && binds_[i]->tensor) return binds_[i];
    return nullptr;
  }
  const tn_port_bind& need(uint32_t port, const char* name) const {
    const tn_port_bind* bind = find(port);
    if (!bind) fail(TN_E_ARGUMENT, std::string("attention port ") + name + " is not bound");
    return *bind;
  }

 private:
  const tn_port_bind* const* binds_;
  uint64_t n_;
};

// Source and target never overlap.
template <class T>
inline void convert_in(const T* __restrict from, int64_t n, float factor, float* __restrict to) {
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) to[c] = to_float(from[c]) * factor;
}
template <class T>
inline void convert_out(T* __restrict to, int64_t n, float factor, const float* __restrict from, bool add) {
  if (add) {
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) to[c] = from_float<T>(to_float(to[c]) + from[c] * factor);
  } else {
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) to[c] = from_float<T>(from[c] * factor);
  }
}

// n numbers of storage type `dtype` at `from`, times `factor`, as f32.
inline void read_row(tn_dtype dtype, const void* from, int64_t n, float factor, float* to) {
  with_float_type(dtype, "an attention tensor",
                  [&]<class T>(T) { convert_in(static_cast<const T*>(from), n, factor, to); });
}
inline void write_row(tn_dtype dtype, void* to, int64_t n, float factor, const float* from, bool add) {
  with_float_type(dtype, "an attention tensor",
                  [&]<class T>(T) { convert_out(static_cast<T*>(to), n, factor, from, add); });
}

// A tensor [B, T, H, width] with unit stride along its last axis.
struct HeadRows {
  char* data = nullptr;
  tn_dtype dtype{};
  int64_t batch = 0, token = 0, head = 0;  // strides in bytes
  int64_t width = 0;
  bool accumulate = false;

  TN_FN void* at(int64_t b, int64_t t, int64_t h) const { return data + b * batch + t * token + h * head; }
  void read(int64_t b, int64_t t, int64_t h, float factor, float* to) const {
    read_row(dtype, at(b, t, h), width, factor, to);
  }
  // Rows of one head lie far apart, where hardware does not look ahead.
  void prefetch(int64_t b, int64_t t, int64_t h) const {
    sdk::prefetch(static_cast<const char*>(at(b, t, h)), width * (dtype.bits / 8));
  }
  void write(int64_t b, int64_t t, int64_t h, float factor, const float* from) const {
    write_row(dtype, at(b, t, h), width, factor, from, accumulate);
  }
};

inline HeadRows head_rows(const tn_port_bind& bind, const char* name, int64_t batch, int64_t tokens, int64_t heads,
                          int64_t width) {
  const tn_tensor& t = *bind.tensor;
  const std::string port = std::string("attention port ") + name;
  if (t.ndim != 4 || t.shape[0] != batch || t.shape[1] != tokens || t.shape[2] != heads || t.shape[3] != width) {
    std::string found;
    for (int32_t i = 0; i < t.ndim; ++i) found += (i ? ", " : "") + std::to_string(t.shape[i]);
    fail(TN_E_ARGUMENT, port + " has shape [" + found + "] but must be [" + std::to_string(batch) + ", " +
                            std::to_string(tokens) + ", " + std::to_string(heads) + ", " + std::to_string(width) + "]");
  }
  if (width > 1 && t.strides[3] != 1) fail(TN_E_UNSUPPORTED, port + " must have unit stride along its last axis");
  if (!same(t.dtype, kF32) && !same(t.dtype, kBF16) && !same(t.dtype, kF16))
    fail(TN_E_UNSUPPORTED, port + " must be f32, bf16 or f16");
  const int64_t size = t.dtype.bits / 8;
  return {data<char>(t),
          t.dtype,
          t.strides[0] * size,
          t.strides[1] * size,
          t.strides[2] * size,
          width,
          (bind.flags & TN_BIND_ACCUMULATE) != 0};
}

// A tensor f32 [B, H, T], such as the LSE; absent when data is null.
struct RowNumbers {
  float* data = nullptr;
  int64_t batch = 0, head = 0, token = 0;  // strides in elements
  bool accumulate = false;
  explicit operator bool() const { return data != nullptr; }
  float& at(int64_t b, int64_t h, int64_t t) const { return data[b * batch + h * head + t * token]; }
};

inline RowNumbers row_numbers(const tn_port_bind* bind, const char* name, int64_t batch, int64_t heads,
                              int64_t tokens) {
  if (!bind) return {};
  const tn_tensor& t = *bind->tensor;
  if (t.ndim != 3 || t.shape[0] != batch || t.shape[1] != heads || t.shape[2] != tokens || !same(t.dtype, kF32))
    fail(TN_E_ARGUMENT, std::string("attention port ") + name + " must be f32 [" + std::to_string(batch) + ", " +
                            std::to_string(heads) + ", " + std::to_string(tokens) + "]");
  return {data<float>(t), t.strides[0], t.strides[1], t.strides[2], (bind->flags & TN_BIND_ACCUMULATE) != 0};
}

// A decode state: u8 [rows, bytes].
struct StateBytes {
  char* data = nullptr;
  int64_t row = 0;
  explicit operator bool() const { return data != nullptr; }
  char* at(int64_t b) const { return data + b * row; }
};

inline StateBytes state_bytes(const tn_port_bind& bind, const char* name, int64_t rows, uint64_t bytes) {
  const tn_tensor& t = *bind.tensor;
  if (t.ndim != 2 || t.shape[0] != rows || static_cast<uint64_t>(t.shape[1]) != bytes || t.dtype.code != TN_UINT ||
      t.dtype.bits != 8 || (t.shape[1] > 1 && t.strides[1] != 1))
    fail(TN_E_ARGUMENT, std::string("attention port ") + name + " must be u8 [" + std::to_string(rows) + ", " +
                            std::to_string(bytes) + "], what state() answers for the tokens of the call");
  return {data<char>(t), t.strides[0]};
}

// A tensor f32 [H], one number a head.
inline RowNumbers head_numbers(const tn_port_bind* bind, const char* name, int64_t heads) {
  if (!bind) return {};
  const tn_tensor& t = *bind->tensor;
  if (t.ndim != 1 || t.shape[0] != heads || !same(t.dtype, kF32))
    fail(TN_E_ARGUMENT, std::string("attention port ") + name + " must be f32 [" + std::to_string(heads) + "]");
  return {data<float>(t), 0, t.strides[0], 0, (bind->flags & TN_BIND_ACCUMULATE) != 0};
}

}  // namespace tenon::sdk
