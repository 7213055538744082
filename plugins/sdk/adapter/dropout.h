// Dropout of an adapter's input: kept values are scaled by 1/(1 − p), the mask is regenerated from the call's key and never stored.
#pragma once

#include <cmath>

#include "sdk/adapter/scratch.h"
#include "sdk/for_each.h"
#include "sdk/philox.h"

namespace tenon::sdk {

class Dropout {
 public:
  // p is rounded to 16 bits and the survivors are scaled by the rounded one, so the expectation is exact.
  explicit Dropout(double p = 0) : threshold_(static_cast<uint32_t>(std::min(65535L, std::lround(p * 65536)))), on_(p > 0) {}

  bool on() const { return on_; }
  bool drops(const tn_adapter_call& call) const { return on_ && (call.flags & TN_CALL_TRAIN); }

  // to = mask/(1−p) ⊙ from, or to += it. Element index = row of the micro-batch · width + column, so that tiles and subsets of
  // rows (rows: which of the call's rows these are; null = all) replay the same mask.
  void apply(const tn_adapter_call& call, const Matrix& from, const Matrix& to, bool add, const int32_t* rows = nullptr) const {
    with_float_type(from.dtype, "the adapter's input", [&](auto tag) { apply<decltype(tag)>(call, from, to, add, rows); });
  }

  template <class T>
  void apply(const tn_adapter_call& call, const Matrix& from, const Matrix& to, bool add, const int32_t* rows) const {
    mask<T>(call.exec, call.rng, call.row_begin, from, to, add, rows);
  }
  // to = mask/(1−p) ⊙ from of a whole pass; to may be from.
  void apply(const tn_exec* exec, const tn_rng& rng, const Matrix& from, const Matrix& to) const {
    with_float_type(from.dtype, "the adapter's activations", [&](auto tag) { mask<decltype(tag)>(exec, rng, 0, from, to, false, nullptr); });
  }

  // Public for nvcc, which takes kernels nowhere else.
  template <class T>
  void mask(const tn_exec* exec, const tn_rng& rng, int64_t first, const Matrix& from, const Matrix& to, bool add, const int32_t* rows) const {
    const int64_t n = from.columns, from_stride = from.row_stride, to_stride = to.row_stride;
    const uint32_t threshold = threshold_;
    const float keep = 65536.0f / static_cast<float>(65536 - threshold);
    const T* in = static_cast<const T*>(from.data);
    T* out = static_cast<T*>(to.data);
    for_each(exec, from.rows * n, [=] TN_KERNEL(int64_t i) {
      const int64_t row = i / n, column = i % n, global = first + (rows ? rows[row] : row);
      const bool kept = noise16(rng, static_cast<uint64_t>(global * n + column)) >= threshold;
      const float v = kept ? keep * to_float(in[row * from_stride + column]) : 0.0f;
      T& o = out[row * to_stride + column];
      o = from_float<T>(add ? to_float(o) + v : v);
    });
  }

 private:
  uint32_t threshold_;
  bool on_;
};

}  // namespace tenon::sdk
