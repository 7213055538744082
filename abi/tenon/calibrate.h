/* Tenon ABI 0.9: extension org.tenon.calibrate/1 of quantizers: weights coded with data in view (GPTQ, Frantar et al. 2022).
 *
 * The host runs calibration text through the model block by block. The inputs of a linear come from the blocks before it, and within a block
 * from the linears that run before it ({q, k, v}, {o}, {gate, up}, {down}), as they will be used, coded weights included ("quantized prefix",
 * TN_PREFIX_CODED), or as they were (TN_PREFIX_PLAIN). Linears that share an input share one statistic. The host gathers it, hands each weight
 * over with it, and goes on with the coded weight in place. A plugin with this extension is never given a weight of an instance whose plan()
 * asks for data through tn_quantizer_api.encode. */
#ifndef TENON_CALIBRATE_H
#define TENON_CALIBRATE_H

#include "tenon/quantizer.h"

#define TN_EXT_CALIBRATE "org.tenon.calibrate/1"

enum {
  TN_STATISTIC_UNDEFINED = 0,
  TN_STATISTIC_GRAM = 1, /* f32 [n, n]: sum of x xᵀ over the tokens of a linear's input x[n], not divided by anything. Symmetric, so
                          * only the diagonal and what lies above it are there; below it stands anything */
  TN_STATISTIC_NORMS = 2 /* f32 [n]: of each input, the L2 norm over the tokens of a sequence, averaged over the sequences */
};
enum { TN_PREFIX_UNDEFINED = 0, TN_PREFIX_CODED = 1, TN_PREFIX_PLAIN = 2 };

/* What an instance asks for; it may get less where the text is short, and is told how much it got. */
typedef struct tn_calibration_plan {
  uint32_t struct_size;
  uint32_t statistic;     /* TN_STATISTIC_*; a host that does not know it refuses the quantizer */
  int64_t sequences;      /* of calibration text; 0: this instance needs no data and is encoded as any other */
  int64_t length;         /* tokens of a sequence */
  uint32_t prefix;        /* TN_PREFIX_* */
  uint32_t reserved;
} tn_calibration_plan;    /* fence calibrate/1 */

typedef struct tn_calibrate {
  uint32_t struct_size;
  uint32_t reserved;
  int32_t (*plan)(tn_quantizer* self, tn_calibration_plan* out);                                                    /* [any-thread] */
  /* Workspace and FLOPs of one encode() of this target. */
  int32_t (*estimate)(tn_quantizer* self, const tn_device_api* api, tn_device* device, const tn_target* target, tn_estimate* out); /* [any-thread] */
  /* Codes the target from src (f32 [m, n], contiguous, used as scratch) with its statistic (borrowed, not changed: other weights read it
   * too) over `tokens` tokens. The components end as tn_quantizer_api.encode would leave them. NaN or Inf: TN_E_NUMERIC. */
  int32_t (*encode)(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* src, const tn_tensor* statistic,
                    int64_t tokens, tn_tensor* const* components, const tn_rng* rng);                               /* [stream] */
} tn_calibrate; /* fence calibrate/1 */

#endif
