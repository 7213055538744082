/* Tenon ABI 0.9: extension org.tenon.runs/1 of optimizers whose update may be cut anywhere (TN_OPTIMIZER_ELEMENTWISE): a host that keeps states
 * coded, or elsewhere, brings in a run of a parameter's elements at a time. */
#ifndef TENON_RUNS_H
#define TENON_RUNS_H

#include "tenon/optimizer.h"

#define TN_EXT_RUNS "org.tenon.runs/1"

#define TN_RUN_ALIGNMENT 1024 /* elements: where a run may begin */

typedef struct tn_runs {
  uint32_t struct_size;
  uint32_t reserved;
  /* The update of the elements of item.uid that follow the first `begin`, a multiple of TN_RUN_ALIGNMENT: param, master, grad and states of the item are
   * that run of elements, flat. Random draws go on being numbered by an element's place in the parameter, so that an update in runs, in any
   * order, is the whole update of tn_optimizer_api.apply, bit for bit. Workspace: as for the whole. */
  int32_t (*apply)(tn_optimizer* self, const tn_exec* exec, const tn_item* item, int64_t begin);                    /* [stream] */
} tn_runs; /* fence runs/1 */

#endif
