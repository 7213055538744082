/* Tenon ABI 0.9: extension org.tenon.steps/1 of adapters: what happens between steps, and parameters that grow.
 *
 * Ranks that are given out during training, masks, schedules. A parameter grows in place: what it held stays at the front, its optimizer
 * states grow with zeros where they have its shape and start again where they have not, its own update count goes on. */
#ifndef TENON_STEPS_H
#define TENON_STEPS_H

#include "tenon/adapter.h"

#define TN_EXT_STEPS "org.tenon.steps/1"

typedef struct tn_grow_sink {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  /* Parameter `param` gets `extent` (not less than now) along `axis` of one or two; *value = the grown tensor, zeros in its new part, valid
   * during the call that was given this sink; null where only memory is counted. */
  int32_t (*grow)(void* self, uint32_t param, int32_t axis, int64_t extent, tn_tensor** value);
} tn_grow_sink; /* fence steps/1 */

typedef struct tn_adapter_steps {
  uint32_t struct_size;
  uint32_t reserved;
  /* After the update of `step` (from 1). params: all of the adapter's, by id. rng: of this step, for starting values. [stream] */
  int32_t (*step_end)(tn_adapter* self, const tn_exec* exec, int64_t step, int64_t total_steps, const tn_param_view* const* params, uint64_t n_params,
                      const tn_rng* rng, const tn_grow_sink* sink);
  /* The largest shapes that training may come to, for the memory forecast. [instance] */
  int32_t (*largest)(tn_adapter* self, const tn_grow_sink* sink);
  /* The state between steps, part of every checkpoint; load brings the shapes back before the values are read. [instance] */
  int32_t (*save)(tn_adapter* self, const tn_sink* sink);
  int32_t (*load)(tn_adapter* self, const void* bytes, uint64_t n_bytes, const tn_grow_sink* sink);
} tn_adapter_steps; /* fence steps/1 */

#endif
