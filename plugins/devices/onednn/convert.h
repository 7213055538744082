// Conversions between the storage of operands and the type of the product.
#pragma once

#include "devices/onednn/gemm_problem.h"

namespace tenon::onednn {

struct Matrix {
  Storage type;
  const void* data;
  int64_t rows, cols, row, col;  // strides in elements
};

// A dense copy in `type`: column after column where the source has unit stride along rows only, else row after row.
void copy_matrix(const Matrix& from, Type type, void* to);

// A strided vector as f32.
void copy_vector(Storage type, const void* from, int64_t stride, int64_t n, float* to);

// C = alpha · tile + beta · C + bias; tile is dense [m, n]. beta = 0 does not read C. A null bias is none.
void finish_tile(const float* tile, int64_t m, int64_t n, double alpha, double beta, const float* row_bias,
                 const float* col_bias, Storage type, void* c, int64_t c_row, int64_t c_col);

// One row of C = beta · C + bias.
void scale_row(Storage type, void* c, int64_t n, int64_t c_col, double beta, Storage bias_type, const void* bias,
               int64_t bias_stride);

}  // namespace tenon::onednn
