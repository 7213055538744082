/* Tenon ABI 0.9: extension org.tenon.gemm-fp8/1 of devices: products of 8-bit floats under one scale each, summed in f32. */
#ifndef TENON_GEMM_FP8_H
#define TENON_GEMM_FP8_H

#include "tenon/device.h"

#define TN_EXT_GEMM_FP8 "org.tenon.gemm-fp8/1"

/* C = alpha · a_scale · b_scale · A · Bᵀ + beta · C, the sums within 2^-12 of the sum of their terms' magnitudes (tensor cores add these
 * products in fewer bits than f32 has). Codes are E4M3 without infinities (OCP's E4M3FN), of which the NaNs, 0x7f and 0xff, are
 * not allowed. Unit strides within rows; strides of rows in elements, at least as long as a row. A, B and C begin at multiples of 16 bytes. */
typedef struct tn_fp8_product {
  uint32_t struct_size;
  uint32_t reserved;
  int64_t m, n, k;
  const uint8_t *a, *b;           /* [m, k] and [n, k] */
  int64_t a_row, b_row;
  const float *a_scale, *b_scale; /* one number each, in memory of the device; NaN shows in C */
  void* c;                        /* [m, n]; not read where beta is 0 */
  int64_t c_row;
  tn_dtype c_dtype;               /* f32 or bf16 */
  uint32_t reserved2;
  double alpha, beta;
} tn_fp8_product; /* fence gemm-fp8/1 */

typedef struct tn_gemm_fp8 {
  uint32_t struct_size;
  uint32_t reserved;
  /* Workspace of one product. Sizes, strides, c_dtype and whether beta is 0, 1 or another number decide it; pointers and alpha are not read. */
  int32_t (*workspace)(tn_device* device, const tn_fp8_product* product, uint64_t* n_bytes);                              /* [any-thread] */
  int32_t (*run)(tn_device* device, tn_stream* stream, const tn_fp8_product* product, void* workspace, uint64_t workspace_bytes); /* [stream] */
} tn_gemm_fp8; /* fence gemm-fp8/1 */

#endif
