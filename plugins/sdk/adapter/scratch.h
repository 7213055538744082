// What one call of an adapter computes with: pieces of the workspace, and products on the device.
//
// A method writes its forward and its backward once, over a Scratch. One made from estimate()'s arguments has no memory: it walks
// through the same code, measures workspace and counts FLOPs, and everything that would touch memory asks measures() first. So the
// bytes asked for are the bytes used. Pieces are given back by release(), in the order of a stack.
#pragma once

#include <algorithm>

#include "sdk/adapter/typed.h"
#include "sdk/linalg/matrix.h"
#include "sdk/workspace.h"
#include "tenon/adapter.h"

namespace tenon::sdk {

class Scratch {
 public:
  // Measures.
  Scratch(const tn_device_api* api, tn_device* device, tn_dtype compute) : api_(api), device_(device), compute_(compute) {}
  // Computes, in exec's workspace.
  Scratch(const tn_exec& exec, tn_dtype compute)
      : exec_(&exec), api_(exec.api), device_(exec.device), compute_(compute), workspace_(exec) {}

  bool measures() const { return !exec_; }
  const tn_exec* exec() const { return exec_; }
  tn_dtype compute() const { return compute_; }

  template <class T>
  T* take(int64_t n) {
    T* memory = workspace_.take<T>(n);
    peak_ = std::max(peak_, workspace_.peak());
    return memory;
  }
  Matrix matrix(tn_dtype dtype, int64_t rows, int64_t columns) {
    return Matrix::dense(static_cast<void*>(take<uint8_t>(rows * columns * (dtype.bits / 8))), dtype, rows, columns);
  }
  Matrix activations(int64_t rows, int64_t columns) { return matrix(compute_, rows, columns); }
  uint64_t mark() const { return workspace_.mark(); }
  void release(uint64_t mark) { workspace_.release(mark); }

  // C = alpha · A · B + beta · C; its own workspace lies behind what is taken now.
  void product(double alpha, const Matrix& a, const Matrix& b, double beta, const Matrix& c) {
    const bool exact = same(compute_, kF32) || (same(a.dtype, kF32) && same(b.dtype, kF32));
    flops_ += 2.0 * static_cast<double>(a.rows) * static_cast<double>(a.columns) * static_cast<double>(c.columns);
    if (measures()) {
      const uint64_t bytes = Products(api_, device_, nullptr, nullptr, 0, exact).measure(a, b, c, alpha, beta);
      peak_ = std::max(peak_, workspace_.mark() + bytes);
    } else {
      const uint64_t used = workspace_.mark();
      Products(api_, device_, exec_->stream, workspace_.behind(used), workspace_.bytes_behind(used), exact)(alpha, a, b, beta, c);
    }
  }

  uint64_t peak() const { return peak_; }
  double flops() const { return flops_; }

 private:
  const tn_exec* exec_ = nullptr;
  const tn_device_api* api_;
  tn_device* device_;
  tn_dtype compute_;
  Workspace workspace_;
  uint64_t peak_ = 0;
  double flops_ = 0;
};

inline uint64_t aligned(uint64_t bytes) { return (bytes + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT; }

}  // namespace tenon::sdk
