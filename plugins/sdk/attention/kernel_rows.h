// Tensors of attention as kernels on a GPU read and write them, whatever their type.
#pragma once

#include "sdk/attention/ports.h"

namespace tenon::sdk {

// A tensor [B, T, H, width] as kernels read and write it.
struct Rows {
  char* data = nullptr;
  tn_dtype dtype{};
  int64_t batch = 0, token = 0, head = 0;  // strides in bytes
  bool accumulate = false;
  Rows() = default;
  explicit Rows(const HeadRows& r) : data(r.data), dtype(r.dtype), batch(r.batch), token(r.token), head(r.head), accumulate(r.accumulate) {}

  TN_FN char* at(int64_t b, int64_t t, int64_t h) const { return data + b * batch + t * token + h * head; }
  TN_FN float get(const char* row, int64_t c) const {
    if (dtype.bits == 32) return reinterpret_cast<const float*>(row)[c];
    return dtype.code == TN_BFLOAT ? to_float(reinterpret_cast<const bf16*>(row)[c])
                                   : to_float(reinterpret_cast<const f16*>(row)[c]);
  }
  TN_FN void put(char* row, int64_t c, float v) const {
    if (accumulate) v += get(row, c);
    if (dtype.bits == 32)
      reinterpret_cast<float*>(row)[c] = v;
    else if (dtype.code == TN_BFLOAT)
      reinterpret_cast<bf16*>(row)[c] = from_float<bf16>(v);
    else
      reinterpret_cast<f16*>(row)[c] = from_float<f16>(v);
  }
};

// A tensor f32 [B, H, T], or [H].
struct Numbers {
  float* data = nullptr;
  int64_t batch = 0, head = 0, token = 0;
  bool accumulate = false;
  Numbers() = default;
  explicit Numbers(const RowNumbers& r) : data(r.data), batch(r.batch), head(r.head), token(r.token), accumulate(r.accumulate) {}
  TN_FN float& at(int64_t b, int64_t h, int64_t t) const { return data[b * batch + h * head + t * token]; }
};

}  // namespace tenon::sdk
