// Matrices as views, and their products through the device.
#pragma once

#include "sdk/tensor.h"
#include "tenon/device.h"

namespace tenon::sdk {

struct Matrix {
  void* data = nullptr;
  tn_dtype dtype = kF32;
  int64_t rows = 0, columns = 0, row_stride = 0, column_stride = 1;

  // Dense row-major f32.
  static Matrix dense(float* data, int64_t rows, int64_t columns) { return {data, kF32, rows, columns, columns, 1}; }
  static Matrix dense(void* data, tn_dtype dtype, int64_t rows, int64_t columns) { return {data, dtype, rows, columns, columns, 1}; }
  // A borrowed tensor of two axes, of any strides.
  static Matrix of(const tn_tensor& t) {
    return {static_cast<char*>(t.data) + t.byte_offset, t.dtype, t.shape[0], t.shape[1], t.strides[0], t.strides[1]};
  }
  Matrix transposed() const { return {data, dtype, columns, rows, column_stride, row_stride}; }
  Matrix row_block(int64_t begin, int64_t n) const {
    return {
        static_cast<char*>(data) + begin * row_stride * dtype.bits / 8, dtype, n, columns, row_stride, column_stride};
  }
  Matrix column_block(int64_t begin, int64_t n) const { return transposed().row_block(begin, n).transposed(); }
};

// A matrix as the borrowed tensor that functions of the ABI take; lives where it is made.
struct MatrixView {
  int64_t shape[2], strides[2];
  tn_tensor tensor;
  explicit MatrixView(const Matrix& m)
      : shape{m.rows, m.columns}, strides{m.row_stride, m.column_stride}, tensor{m.data, {TN_CPU, 0}, 2, m.dtype,
                                                                                 shape,  strides,     0} {}
  MatrixView(const MatrixView&) = delete;
};

// n matrices of one shape, `stride` elements apart: an operand of a batched product.
struct Matrices {
  Matrix first;
  int64_t n = 0, stride = 0;

  static Matrices dense(float* data, int64_t n, int64_t rows, int64_t columns) { return {Matrix::dense(data, rows, columns), n, rows * columns}; }
  Matrices transposed() const { return {first.transposed(), n, stride}; }
};

struct MatricesView {
  int64_t shape[3], strides[3];
  tn_tensor tensor;
  explicit MatricesView(const Matrices& m)
      : shape{m.n, m.first.rows, m.first.columns},
        strides{m.stride, m.first.row_stride, m.first.column_stride},
        tensor{m.first.data, {TN_CPU, 0}, 3, m.first.dtype, shape, strides, 0} {}
  MatricesView(const MatricesView&) = delete;
};

// C ← alpha · A · B + beta · C, accumulated in f32, on the device. The workspace of products is what `measure` says for the shapes,
// or more.
class Products {
 public:
  Products(const tn_device_api* api, tn_device* device, tn_stream* stream = nullptr, void* workspace = nullptr,
           uint64_t bytes = 0, bool exact = true)
      : api_(api), device_(device), stream_(stream), workspace_(workspace), bytes_(bytes), exact_(exact) {}

  void operator()(double alpha, const Matrix& a, const Matrix& b, double beta, const Matrix& c) const {
    if (c.rows == 0 || c.columns == 0) return;
    MatrixView va(a), vb(b), vc(c);
    run(describe(alpha, va, vb, beta, vc));
  }
  void operator()(double alpha, const Matrices& a, const Matrices& b, double beta, const Matrices& c) const {
    if (c.n == 0 || c.first.rows == 0 || c.first.columns == 0) return;
    MatricesView va(a), vb(b), vc(c);
    run(describe(alpha, va, vb, beta, vc));
  }
  uint64_t measure(const Matrix& a, const Matrix& b, const Matrix& c, double alpha = 1, double beta = 0) const {
    if (c.rows == 0 || c.columns == 0) return 0;
    MatrixView va(a), vb(b), vc(c);
    return needed(describe(alpha, va, vb, beta, vc));
  }
  uint64_t measure(const Matrices& a, const Matrices& b, const Matrices& c, double alpha = 1, double beta = 0) const {
    if (c.n == 0 || c.first.rows == 0 || c.first.columns == 0) return 0;
    MatricesView va(a), vb(b), vc(c);
    return needed(describe(alpha, va, vb, beta, vc));
  }

 private:
  void run(const tn_gemm& g) const { check(api_->gemm(device_, stream_, &g, workspace_, bytes_)); }
  uint64_t needed(const tn_gemm& g) const {
    uint64_t n = 0;
    check(api_->gemm_workspace(device_, &g, &n));
    return n;
  }
  template <class View>
  tn_gemm describe(double alpha, const View& a, const View& b, double beta, View& c) const {
    tn_gemm g{};
    g.struct_size = TN_SIZE_TO(tn_gemm, packed_b);
    g.flags = exact_ ? TN_GEMM_EXACT : 0;
    g.a = &a.tensor, g.b = &b.tensor, g.c = &c.tensor;
    g.alpha = alpha, g.beta = beta;
    return g;
  }
  const tn_device_api* api_;
  tn_device* device_;
  tn_stream* stream_;
  void* workspace_;
  uint64_t bytes_;
  bool exact_;  // f32 operands are multiplied in f32
};

}  // namespace tenon::sdk
