// Rows and columns of activations picked by index.
#pragma once

#include "sdk/for_each.h"
#include "sdk/linalg/matrix.h"

namespace tenon::sdk {

// to[j] = weight[j] · from[index[j]]; weight null = 1. Types as they come; both have unit column stride.
template <class T, class U>
void gather_rows(const tn_exec* exec, const Matrix& from, const int32_t* index, const float* weight, const Matrix& to) {
  const int64_t n = to.columns, from_stride = from.row_stride, to_stride = to.row_stride;
  const T* in = static_cast<const T*>(from.data);
  U* out = static_cast<U*>(to.data);
  for_each(exec, to.rows * n, [=] TN_KERNEL(int64_t i) {
    const int64_t j = i / n, column = i % n;
    const float v = to_float(in[index[j] * from_stride + column]);
    out[j * to_stride + column] = from_float<U>(weight ? weight[j] * v : v);
  });
}
inline void gather_rows(const tn_exec* exec, const Matrix& from, const int32_t* index, const float* weight, const Matrix& to) {
  with_float_type(from.dtype, "the rows", [&](auto tag) {
    with_float_type(to.dtype, "the picked rows",
                    [&](auto to_tag) { gather_rows<decltype(tag), decltype(to_tag)>(exec, from, index, weight, to); });
  });
}

// to[:, j] = from[:, index[j]].
template <class T, class U>
void gather_columns(const tn_exec* exec, const Matrix& from, const int32_t* index, const Matrix& to) {
  const int64_t n = to.columns, from_stride = from.row_stride, to_stride = to.row_stride;
  const T* in = static_cast<const T*>(from.data);
  U* out = static_cast<U*>(to.data);
  for_each(exec, to.rows * n, [=] TN_KERNEL(int64_t i) {
    const int64_t row = i / n, j = i % n;
    out[row * to_stride + j] = from_float<U>(to_float(in[row * from_stride + index[j]]));
  });
}
inline void gather_columns(const tn_exec* exec, const Matrix& from, const int32_t* index, const Matrix& to) {
  with_float_type(from.dtype, "the columns", [&](auto tag) {
    with_float_type(to.dtype, "the picked columns",
                    [&](auto to_tag) { gather_columns<decltype(tag), decltype(to_tag)>(exec, from, index, to); });
  });
}

// to[:, index[j]] += from[:, j]; indices are distinct.
template <class T>
void add_columns(const tn_exec* exec, const Matrix& from, const int32_t* index, const Matrix& to) {
  const int64_t n = from.columns, from_stride = from.row_stride, to_stride = to.row_stride;
  const T* in = static_cast<const T*>(from.data);
  T* out = static_cast<T*>(to.data);
  for_each(exec, from.rows * n, [=] TN_KERNEL(int64_t i) {
    T& o = out[i / n * to_stride + index[i % n]];
    o = from_float<T>(to_float(o) + to_float(in[i / n * from_stride + i % n]));
  });
}
inline void add_columns(const tn_exec* exec, const Matrix& from, const int32_t* index, const Matrix& to) {
  with_float_type(from.dtype, "the columns", [&](auto tag) { add_columns<decltype(tag)>(exec, from, index, to); });
}

}  // namespace tenon::sdk
