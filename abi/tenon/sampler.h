/* Tenon ABI 0.9: extension org.tenon.sampler/1 of adapters: which rows of a linear's input survive to the product dW = dYᵀ X.
 *
 * Such an adapter decorates its sites: whoever needs X there for a weight gradient, the host for a trained weight or another adapter that
 * retains TN_RETAIN_ROWS, gets rows of it, already weighted so that the product over them has the right expectation. dX and the output stay
 * exact. Its own forward and backward pass the base through. Linears that read one input share one sample. */
#ifndef TENON_SAMPLER_H
#define TENON_SAMPLER_H

#include "tenon/adapter.h"

#define TN_EXT_SAMPLER "org.tenon.sampler/1"

typedef struct tn_sampler {
  uint32_t struct_size;
  uint32_t reserved;
  /* *kept = how many of `rows` rows are kept (= rows: all of them, nothing is sampled), cost->workspace_bytes of sample(). [any-thread] */
  int32_t (*plan)(tn_adapter* self, uint32_t site, int64_t rows, int64_t n, const tn_dtype* dtype, int64_t* kept, tn_estimate* cost);
  /* index int32 [kept] ascending, repeats allowed; sampled [kept, n] in x's type: rows of x times their weights. Keyed by call->rng, so that
   * recomputation draws the same. [stream] */
  int32_t (*sample)(tn_adapter* self, uint32_t site, const tn_adapter_call* call, const tn_tensor* x, tn_tensor* index, tn_tensor* sampled);
} tn_sampler; /* fence sampler/1 */

#endif
