/* Tenon ABI 0.9: extension org.tenon.activation/1 of quantizers: codecs of what forward saves for backward (Mesa, Pan et al. 2021; COAT,
 * Xi et al. 2024).
 *
 * The forward pass is exact; only the copy that waits for the backward formulas is coded. The host calls `save` once for every tensor of
 * an executed forward and `restore` once before it is used. Everything that restore needs is in the token: statistics move on between the
 * two (micro-batches, shared layers), so restore is not given them. What a checkpoint recomputes in backward is used at once, never coded,
 * and moves no statistic: a replay is not a second observation.
 *
 * A quantizer with TN_SITE_ACTIVATION and without this extension is used through encode and decode of its own table, over a target [rows,
 * channels]. */
#ifndef TENON_ACTIVATION_H
#define TENON_ACTIVATION_H

#include "tenon/quantizer.h"

#define TN_EXT_ACTIVATION "org.tenon.activation/1"

enum { /* what backward does with the tensor */
  TN_ACTIVATION_UNDEFINED = 0,
  TN_ACTIVATION_LINEAR_INPUT = 1,      /* multiplies an output gradient: dW = dYᵀ X */
  TN_ACTIVATION_NORM_INPUT = 2,        /* is normalized again, also as the input of linears */
  TN_ACTIVATION_ATTENTION_OPERAND = 3, /* q, k or v */
  TN_ACTIVATION_NONLINEAR_INPUT = 4    /* goes through an element-wise function and its derivative */
};

typedef struct tn_activation {
  uint32_t struct_size;
  uint32_t use;     /* TN_ACTIVATION_*; a codec treats one that it does not know like TN_ACTIVATION_NORM_INPUT */
  uint32_t slot;    /* the place in the model, the same in every step */
  int32_t block;    /* layer */
  int64_t rows;     /* tokens of this call */
  int64_t channels; /* of one token: x is [rows, channels], contiguous */
  int64_t heads;    /* that share the channels out evenly; 0 outside of attention */
  tn_dtype dtype;   /* of x: f32, bf16 or f16 */
  uint32_t reserved;
} tn_activation; /* fence activation/1 */

typedef struct tn_activation_codec {
  uint32_t struct_size;
  uint32_t reserved;
  /* The components of one call, allocated by the host for each save and freed after its restore. */
  int32_t (*token)(tn_quantizer* self, const tn_activation* what, const tn_component_sink* sink);                   /* [any-thread] */
  /* What is kept for a slot between calls: depends on everything but `rows`. The host allocates it once, as zero bytes, which mean "no
   * call yet", counts it and checkpoints it. Null: nothing. */
  int32_t (*statistics)(tn_quantizer* self, const tn_activation* what, const tn_component_sink* sink);              /* [any-thread] */
  /* Workspace, FLOPs and traffic of one save (TN_QUANTIZER_ENCODE) or restore (TN_QUANTIZER_DECODE). */
  int32_t (*estimate)(tn_quantizer* self, const tn_device_api* api, tn_device* device, const tn_activation* what, uint32_t op,
                      tn_estimate* out);                                                                            /* [any-thread] */
  /* Fills the token from x and moves the statistics. `rng` is of this call alone. NaN or Inf in x: TN_E_NUMERIC, statistics unchanged;
   * the host then keeps x as it is, for its step is lost and will be skipped. */
  int32_t (*save)(tn_quantizer* self, const tn_exec* exec, const tn_activation* what, const tn_tensor* x, tn_tensor* const* statistics,
                  tn_tensor* const* token, const tn_rng* rng);                                                      /* [stream] */
  /* x = what the token holds; x is [rows, channels] in the dtype that save was given. */
  int32_t (*restore)(tn_quantizer* self, const tn_exec* exec, const tn_activation* what, tn_tensor* const* token, tn_tensor* x); /* [stream] */
} tn_activation_codec; /* fence activation/1 */

#endif
