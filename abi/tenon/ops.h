/* Tenon ABI 0.9: extension org.tenon.ops/1 of devices: the transformer's own operators, forward and backward.
 *
 * Activations are f32 or bf16 (one type per call unless said otherwise), statistics and sums f32, arithmetic f32. Rows are tokens: a
 * [T, n] operand may be a strided view with unit stride along n. Outputs may alias inputs only where stated. "+=" accumulates in
 * the stored type; results do not depend on the number of threads. Every function is [stream]. */
#ifndef TENON_OPS_H
#define TENON_OPS_H

#include "tenon/device.h"

#define TN_EXT_OPS "org.tenon.ops/1"

typedef struct tn_ops {
  uint32_t struct_size;
  uint32_t reserved;

  /* y[T, n] = table[ids[T]]; ids int32 in [0, V). y may differ from table in type. */
  int32_t (*embedding)(tn_device*, tn_stream*, const tn_tensor* table, const tn_tensor* ids, tn_tensor* y);
  /* dtable[V, n] (f32) += rows of dy gathered by id, in token order (deterministic). */
  int32_t (*embedding_backward)(tn_device*, tn_stream*, const tn_tensor* ids, const tn_tensor* dy, tn_tensor* dtable);

  /* y = x / rms(x) · weight over the last axis, rms = sqrt(mean(x²) + eps); rstd[T] f32 is kept for backward (null: not wanted).
   * (Zhang & Sennrich 2019.) weight [n] any float type; also called per head with x [T·H, d]. */
  int32_t (*rms_norm)(tn_device*, tn_stream*, const tn_tensor* x, const tn_tensor* weight, double eps, tn_tensor* y, tn_tensor* rstd);
  /* dx = beta · dx + gradient; dweight[n] (f32, null: frozen) += gradient. */
  int32_t (*rms_norm_backward)(tn_device*, tn_stream*, const tn_tensor* dy, const tn_tensor* x, const tn_tensor* weight,
                               const tn_tensor* rstd, double beta, tn_tensor* dx, tn_tensor* dweight);

  /* Rotary embedding of the two halves of each head, in place: x [T, H, d], positions int32 [T], inverse frequencies f32 [d/2];
   * scale multiplies cos and sin (attention factor of scaled variants). sign +1 forward, -1 backward. (Su et al. 2021.) */
  int32_t (*rope)(tn_device*, tn_stream*, tn_tensor* x, const tn_tensor* positions, const tn_tensor* inv_freq, double scale, double sign);

  /* out = silu(gate) · up. (Shazeer 2020.) Backward: dgate and dup may alias gate and up. */
  int32_t (*swiglu)(tn_device*, tn_stream*, const tn_tensor* gate, const tn_tensor* up, tn_tensor* out);
  int32_t (*swiglu_backward)(tn_device*, tn_stream*, const tn_tensor* dout, const tn_tensor* gate, const tn_tensor* up, tn_tensor* dgate,
                             tn_tensor* dup);

  /* y = alpha · x + beta · y, element-wise, converting types; beta = 0 does not read y. y may alias x. */
  int32_t (*axpby)(tn_device*, tn_stream*, double alpha, const tn_tensor* x, double beta, tn_tensor* y);
  /* y[T, n] += bias[n]; and its gradient dbias[n] (f32) += column sums of dy. */
  int32_t (*bias_add)(tn_device*, tn_stream*, const tn_tensor* bias, tn_tensor* y);
  int32_t (*bias_backward)(tn_device*, tn_stream*, const tn_tensor* dy, tn_tensor* dbias);

  /* Softmax cross-entropy, forward and gradient in one pass: logits [T, V], labels int32 [T], label < 0 is ignored. losses[T] (f64,
   * null: not wanted) = nats of each row, 0 where ignored. Where grad_scale != 0, logits are overwritten by (softmax − onehot) · grad_scale
   * (0 where ignored); else left alone. */
  int32_t (*cross_entropy)(tn_device*, tn_stream*, tn_tensor* logits, const tn_tensor* labels, double grad_scale, tn_tensor* losses);

  /* out f64 [2] += {sum of squares, count of non-finite elements} of x, any float type. */
  int32_t (*sum_squares)(tn_device*, tn_stream*, const tn_tensor* x, tn_tensor* out);
  /* x f32 -> y bf16 with stochastic rounding keyed by rng, element e of y using noise e. */
  int32_t (*round_stochastic)(tn_device*, tn_stream*, const tn_tensor* x, const tn_rng* rng, tn_tensor* y);
  /* x = mean + std · normal(rng), or uniform in [mean − std, mean + std] where kind = TN_FILL_UNIFORM; any float type. */
  int32_t (*fill_random)(tn_device*, tn_stream*, uint32_t kind, double mean, double std, const tn_rng* rng, tn_tensor* x);
} tn_ops; /* fence ops/1 */

enum { TN_FILL_UNDEFINED = 0, TN_FILL_NORMAL = 1, TN_FILL_UNIFORM = 2 };

#endif
