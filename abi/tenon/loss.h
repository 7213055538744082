/* Tenon ABI 0.9: extension org.tenon.loss/1 of optimizers whose rule watches the loss.
 *
 * The host computes the loss anyway; a rule that decides by it (MKOR-H: whether its preconditioner still pays) is told once a step. Used by
 * mkor. What a rule keeps of losses is small state: it belongs into save and load. */
#ifndef TENON_LOSS_H
#define TENON_LOSS_H

#include "tenon/optimizer.h"

#define TN_EXT_LOSS "org.tenon.loss/1"

typedef struct tn_loss {
  uint32_t struct_size;
  uint32_t reserved;
  /* After the updates of a step and before its finish: the mean nats per predicted token over the step's data, all micro-batches together, as the
   * model was before these updates. Not called for a step that was skipped, nor where the host has no such number (a quantizer's training of
   * blocks). Equal runs are told equal numbers. */
  int32_t (*seen)(tn_optimizer* self, const tn_step* step, double loss); /* [instance] */
} tn_loss; /* fence loss/1 */

#endif
