/* Tenon ABI 0.9: extension org.tenon.linears/1 of quantizers: one input times several weights in one call (q, k and v; gate and up).
 *
 * For few rows a product of codes takes so little time that preparing the input and waking threads count: here both happen once. All weights
 * are held by the same instance and have the same second axis. Without the extension, and wherever estimate refuses, the host calls linear()
 * for each; what comes out is the same to the last bit. */
#ifndef TENON_LINEARS_H
#define TENON_LINEARS_H

#include "tenon/quantizer.h"

#define TN_EXT_LINEARS "org.tenon.linears/1"

typedef struct tn_linears {
  uint32_t struct_size;
  uint32_t reserved;
  /* Cost of run() on `rows` rows of x; the workspace serves the whole call. TN_E_UNSUPPORTED, with the reason: linear() one by one, or no
   * fused product at all, is what pays for so many rows. */
  int32_t (*estimate)(tn_quantizer* self, const tn_device_api* api, tn_device* device, const tn_target* const* targets, uint64_t n, int64_t rows,
                      tn_estimate* out);                                                                            /* [any-thread] */
  /* y[i][T, m_i] = x[T, n] W_iᵀ for every target [m_i, n]. components[i]: as linear() takes those of targets[i]. The results are of one type
   * and overlap neither each other nor x. */
  int32_t (*run)(tn_quantizer* self, const tn_exec* exec, const tn_target* const* targets, tn_tensor* const* const* components, uint64_t n,
                 const tn_tensor* x, tn_tensor* const* y);                                                          /* [stream] */
} tn_linears; /* fence linears/1 */

#endif
