/* Tenon ABI 0.9: extension org.tenon.gemm8/1 of devices: products of 8-bit integers, exact in 32 bits. */
#ifndef TENON_GEMM8_H
#define TENON_GEMM8_H

#include "tenon/device.h"

#define TN_EXT_GEMM8 "org.tenon.gemm8/1"

typedef struct tn_gemm8 {
  uint32_t struct_size;
  uint32_t reserved;
  /* Workspace of one product of these sizes. */
  int32_t (*workspace)(tn_device* device, int64_t m, int64_t n, int64_t k, uint64_t* n_bytes);                      /* [any-thread] */
  /* c[m, n] = a[m, k] b[n, k]ᵀ; row strides in elements, at least as long as a row; unit strides within. k < 2^17, so that no sum overflows. */
  int32_t (*run)(tn_device* device, tn_stream* stream, int64_t m, int64_t n, int64_t k, const int8_t* a, int64_t a_row, const int8_t* b, int64_t b_row,
                 int32_t* c, int64_t c_row, void* workspace, uint64_t workspace_bytes);                             /* [stream] */
} tn_gemm8; /* fence gemm8/1 */

#endif
