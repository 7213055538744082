/* Tenon ABI 0.9: extension org.tenon.linear-wgrad/1 of optimizers: the plugin computes a linear's weight gradient itself.
 *
 * plan() asks for it with TN_PLAN_OWN_WGRAD in the flags of a linear's weight; the host then calls `wgrad` where it would have multiplied
 * dW = dY^T X, once per micro-batch, with all rows of every sample together. Used by flashdp. */
#ifndef TENON_LINEAR_WGRAD_H
#define TENON_LINEAR_WGRAD_H

#include "tenon/optimizer.h"

#define TN_EXT_LINEAR_WGRAD "org.tenon.linear-wgrad/1"

enum { TN_PLAN_OWN_WGRAD = 0x200 }; /* bit of tn_plan_sink.param beside TN_PLAN_* */

/* Which rows belong to which sample: sample i has rows [begin[i], begin[i + 1]). Documents packed into one sequence are samples of their
 * own where attention keeps them apart. */
typedef struct tn_samples {
  uint32_t struct_size;
  uint32_t reserved;
  int64_t n;
  const int64_t* begin; /* n + 1 */
  double grad_scale;    /* dy is grad_scale times the gradient of each sample's summed nats */
} tn_samples; /* fence linear-wgrad/1 */

typedef struct tn_linear_wgrad {
  uint32_t struct_size;
  uint32_t reserved;
  /* Workspace of one product over `rows` rows of `samples` samples, whatever their lengths and the types of x, dy (f32 or bf16) and dw. */
  int32_t (*estimate)(tn_optimizer* self, const struct tn_device_api* api, tn_device* device, uint32_t uid, int64_t rows, int64_t samples,
                      tn_estimate* out);                                                                            /* [any-thread] */
  /* dw[m, n] = beta · dw + the plugin's product of dy[T, m] and x[T, n]; dw f32 or bf16, beta 0 or 1, all dense. What dw then means is the plugin's
   * affair: it comes back in apply. */
  int32_t (*wgrad)(tn_optimizer* self, const tn_exec* exec, uint32_t uid, const tn_samples* samples, const tn_tensor* x, const tn_tensor* dy,
                   double beta, tn_tensor* dw);                                                                     /* [stream] */
} tn_linear_wgrad; /* fence linear-wgrad/1 */

#endif
