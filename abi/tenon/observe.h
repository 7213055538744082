/* Tenon ABI 0.9: extension org.tenon.observe/1 of optimizers: what a linear layer saw, in a few numbers.
 *
 * plan() asks for a tap by adding a TN_PLAN_TAP_* bit to the flags of a linear's weight; the host reduces while it runs the layer and
 * hands over the result once per step, before prepare and apply of that parameter. No activation crosses. Used by mkor. A tap is asked for
 * the weights of linears only (in_axis >= 0, a role of the stack or the head); for others the bit is ignored. */
#ifndef TENON_OBSERVE_H
#define TENON_OBSERVE_H

#include "tenon/optimizer.h"

#define TN_EXT_OBSERVE "org.tenon.observe/1"

enum { /* bits of tn_plan_sink.param beside TN_PLAN_* */
  TN_PLAN_TAP_MEANS = 0x100 /* mean input and mean output gradient over all tokens of the step, all micro-batches together */
};

typedef struct tn_tap {
  uint32_t struct_size;
  uint32_t taps;       /* the TN_PLAN_TAP_* answered */
  int64_t rows;        /* tokens that went in */
  const tn_tensor* x;  /* f32 [n]: the mean of the inputs' rows */
  const tn_tensor* dy; /* f32 [m]: the sum of the output gradients' rows, that is, the mean of their gradients per token: the loss is a mean */
} tn_tap; /* fence observe/1 */

typedef struct tn_observe {
  uint32_t struct_size;
  uint32_t reserved;
  /* `item` is that of the apply that follows, with its states. exec's workspace holds what estimate says. */
  int32_t (*observe)(tn_optimizer* self, const tn_exec* exec, const tn_item* item, const tn_tap* tap); /* [stream] */
} tn_observe; /* fence observe/1 */

#endif
