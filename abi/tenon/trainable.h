/* Tenon ABI 0.9: extension org.tenon.trainable/1 of quantizers: weights whose grid is learned (EfficientQAT, Chen et al. 2024).
 *
 * Before a weight is coded it has a training form: f32 values of the plugin's choice (the weight itself, scales, zero points, factors inside
 * the rounding …), from which materialize() makes the weight that the model computes with. The host trains these values one block of the
 * model at a time: it runs calibration text through the blocks as they were and through the blocks coded so far, takes as loss the mean
 * square of the difference between what the block as it was made of the former and what the block in training makes of the latter, and
 * hands the gradient of the materialized weights back through gradient(). Then harden() makes the components, the block is run once more
 * with them, and the next block follows. A weight of an instance whose plan() asks for text is never given to tn_quantizer_api.encode,
 * except by a host that has none.
 *
 * After that, components flagged TN_COMPONENT_TRAINABLE may be trained on the loss of the whole model (a plugin whose manifest provides
 * quantizer:scale-gradients): component_gradient() is the gradient of decode with respect to them.
 *
 * All tensors are contiguous; calls have no workspace. Rows of a gradient come in any number of calls, each row once. */
#ifndef TENON_TRAINABLE_H
#define TENON_TRAINABLE_H

#include "tenon/quantizer.h"

#define TN_EXT_TRAINABLE "org.tenon.trainable/1"

typedef struct tn_training_plan {
  uint32_t struct_size;
  uint32_t reserved;
  int64_t sequences;     /* of text; less where the text is short. 0: nothing is trained, the instance is encoded as any other */
  int64_t length;        /* tokens of a sequence */
  int64_t validation;    /* sequences kept apart, at most a quarter of those there: training of a block ends with the epoch in which their
                          * loss no longer falls. 0: none */
  int64_t epochs, batch; /* batch: sequences of a step */
  double floor;          /* rates fall along a cosine from those of the values to this share of them */
  const char* optimizer; /* spec of the optimizer that applies the gradients; alive as long as the instance */
} tn_training_plan;      /* fence trainable/1 */

/* A tensor of the training form. */
typedef struct tn_value {
  uint32_t struct_size;
  int32_t ndim;
  int64_t shape[4];
  double lr;        /* highest rate; 0: not trained */
  const char* name;
} tn_value; /* fence trainable/1 */

typedef struct tn_value_sink {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  int32_t (*declare)(void* self, const tn_value* value);
} tn_value_sink; /* fence trainable/1 */

typedef struct tn_trainable {
  uint32_t struct_size;
  uint32_t reserved;
  int32_t (*plan)(tn_quantizer* self, tn_training_plan* out);                                                       /* [any-thread] */
  /* The training form of a [m, n] weight, in the order in which it is passed ever after. */
  int32_t (*values)(tn_quantizer* self, const tn_target* target, const tn_value_sink* sink);                        /* [any-thread] */
  /* Its starting values, from src (f32 [m, n]). NaN or Inf: TN_E_NUMERIC. */
  int32_t (*start)(tn_quantizer* self, const tn_exec* exec, const tn_target* target, const tn_tensor* src,
                   tn_tensor* const* values);                                                                       /* [stream] */
  /* w (f32 or bf16) = rows [begin, end) of the weight that the values stand for. */
  int32_t (*materialize)(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* values, int64_t begin,
                         int64_t end, tn_tensor* w);                                                                /* [stream] */
  /* Adds to dvalues (f32) what dw (f32, rows [begin, end) of the materialized weight's gradient) comes to; null: not trained. */
  int32_t (*gradient)(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* values, const tn_tensor* dw,
                      int64_t begin, int64_t end, tn_tensor* const* dvalues);                                       /* [stream] */
  /* After a step of the optimizer: values that left their range come back into it. */
  int32_t (*clamp)(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* values);     /* [stream] */
  /* The training form becomes the components. */
  int32_t (*harden)(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* values,
                    tn_tensor* const* components);                                                                  /* [stream] */
  /* Adds to dcomponents (f32; null: not trained) what dw (f32, rows [begin, end) of the decoded weight's gradient) comes to. */
  int32_t (*component_gradient)(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* components,
                                const tn_tensor* dw, int64_t begin, int64_t end, tn_tensor* const* dcomponents);    /* [stream] */
} tn_trainable; /* fence trainable/1 */

#endif
