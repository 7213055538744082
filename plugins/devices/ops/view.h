// How operators see a tensor: rows of consecutive elements.
//
// Rows are the last axis (unit stride); the leading axes collapse to at most two levels of strides, which covers [T,
// n], views into a wider buffer, and [T, H, d] heads. Work is cut into tiles of at most kTile columns, a cut that
// depends on shapes alone: results do not depend on the number of threads.
#pragma once

#include "sdk/for_each.h"
#include "sdk/tensor.h"

namespace tenon::ops {

using sdk::fail;

inline constexpr int64_t kTile = 4096;
// Scratch behind tn_exec.workspace that every backend offers to its operators: of fixed size, whatever the shapes.
inline constexpr int64_t kScratchBytes = 64 << 10;

template <class T>
struct Rows {
  T* data;
  int64_t n, cols;  // rows, and elements of each
  int64_t inner;    // rows of the inner level
  int64_t outer_stride, inner_stride;
  TN_FN T* row(int64_t r) const {
    if (inner == n) return data + r * inner_stride;
    const int64_t o = r / inner;
    return data + o * outer_stride + (r - o * inner) * inner_stride;
  }
};

inline std::string shape_text(const tn_tensor& t) {
  std::string s = "[";
  for (int32_t i = 0; i < t.ndim; ++i) s += (i ? ", " : "") + std::to_string(t.shape[i]);
  return s + "]";
}

inline const tn_tensor& present(const tn_tensor* t, const char* what) {
  if (!t) fail(TN_E_ARGUMENT, std::string(what) + " is missing");
  return *t;
}

template <class T>
Rows<T> rows_of(const tn_tensor& t, const char* what) {
  Rows<T> r{sdk::data<T>(t), 1, 1, 1, 0, 0};
  if (t.ndim == 0) return r;
  const int32_t last = t.ndim - 1;
  r.cols = t.shape[last];
  if (r.cols > 1 && t.strides[last] != 1)
    fail(TN_E_UNSUPPORTED, std::string(what) + " must have unit stride along its last axis");
  if (sdk::is_contiguous(t)) {
    r.n = r.cols ? sdk::count(t) / r.cols : 0;
    r.inner = r.n, r.inner_stride = r.cols;
    return r;
  }
  // Levels from the inside out; neighbours that step evenly are one level.
  int64_t size[2] = {1, 1}, stride[2] = {0, 0};
  int level = -1;
  for (int32_t i = last - 1; i >= 0; --i) {
    if (t.shape[i] == 1) continue;
    if (level >= 0 && t.strides[i] == size[level] * stride[level]) {
      size[level] *= t.shape[i];
    } else if (++level < 2) {
      size[level] = t.shape[i], stride[level] = t.strides[i];
    } else {
      fail(TN_E_UNSUPPORTED, std::string(what) + " of shape " + shape_text(t) +
                                 " is strided along more than two axes; make it contiguous");
    }
  }
  r.n = size[0] * size[1], r.inner = size[0], r.inner_stride = stride[0], r.outer_stride = stride[1];
  return r;
}

// One row of all elements where a tensor has no gaps, so that short rows do not cut the work small.
template <class T>
Rows<T> flat(Rows<T> r) {
  return {r.data, 1, r.n * r.cols, 1, 0, 0};
}

inline void same_shape(const tn_tensor& a, const tn_tensor& b, const char* names) {
  bool equal = a.ndim == b.ndim;
  for (int32_t i = 0; equal && i < a.ndim; ++i) equal = a.shape[i] == b.shape[i];
  if (!equal) fail(TN_E_ARGUMENT, std::string(names) + " differ in shape: " + shape_text(a) + " and " + shape_text(b));
}

inline void expect_type(const tn_tensor& t, tn_dtype dtype, const char* what, const char* name) {
  if (!sdk::same(t.dtype, dtype)) fail(TN_E_ARGUMENT, std::string(what) + " must be " + name);
}

// A contiguous vector of n elements of T.
template <class T>
T* vector_of(const tn_tensor& t, int64_t n, tn_dtype dtype, const char* what, const char* name) {
  expect_type(t, dtype, what, name);
  if (!sdk::is_contiguous(t)) fail(TN_E_UNSUPPORTED, std::string(what) + " must be contiguous");
  if (sdk::count(t) != n)
    fail(TN_E_ARGUMENT, std::string(what) + " has " + std::to_string(sdk::count(t)) + " elements where " +
                            std::to_string(n) + " are needed");
  return sdk::data<T>(t);
}

// Calls body with a value of the activation type: f32 or bf16.
template <class Body>
void with_activation(tn_dtype d, const char* what, Body&& body) {
  if (sdk::same(d, sdk::kF32)) return body(float{});
  if (sdk::same(d, sdk::kBF16)) return body(sdk::bf16{});
  fail(TN_E_UNSUPPORTED, std::string(what) + " must be f32 or bf16");
}

// The rows × tiles grid of element-wise operators.
struct Grid {
  int64_t rows, cols, per_row;
  Grid(int64_t n, int64_t columns) : rows(n), cols(columns), per_row((columns + kTile - 1) / kTile) {}
  TN_FN int64_t blocks() const { return rows * per_row; }
  int64_t elements() const { return cols < kTile ? cols : kTile; }  // of one block, at most
};
struct Tile {
  int64_t row, begin, size;
};
TN_FN Tile tile_of(const Grid& g, int64_t block) {
  const int64_t row = g.per_row == 1 ? block : block / g.per_row, begin = (block - row * g.per_row) * kTile;
  return {row, begin, g.cols - begin < kTile ? g.cols - begin : kTile};
}

}  // namespace tenon::ops
