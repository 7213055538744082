/* Tenon ABI 0.9: extension org.tenon.drive/1 of optimizers: the plugin asks the host for losses instead of gradients.
 *
 * A step of such an optimizer: plan → drive → prepare and apply, whose items have no gradient → finish. No gradient is computed and no
 * activation is kept: the run needs the memory of inference. Used by mezo and qzo.
 *
 * A displacement is described by value, as terms coef · z, where z is the plugin's own noise of key (seed, stream, uid of the parameter,
 * element). The host never stores z nor, unless it likes to, a displaced weight: it asks `perturb` for ranges when and where it needs
 * them (panel by panel before a product, row by row before an embedding, on another device, after a restart) and gets the same numbers.
 * Which elements move, and by what distribution, is the plugin's secret: it knows roles, masks and blocks. The parameter itself is never
 * changed by a probe, so nothing has to be restored. */
#ifndef TENON_DRIVE_H
#define TENON_DRIVE_H

#include "tenon/optimizer.h"

#define TN_EXT_DRIVE "org.tenon.drive/1"

typedef struct tn_term {
  uint32_t struct_size;
  uint32_t stream; /* of the noise's key */
  uint64_t seed;   /* likewise */
  double coef;
} tn_term; /* fence drive/1 */

/* parameter + Σ terms, for every parameter that trains in this step. No terms: the parameters as they are. */
typedef struct tn_displacement {
  uint32_t struct_size;
  uint32_t n_terms;
  const tn_term* const* terms;
} tn_displacement; /* fence drive/1 */

/* What the host offers while drive() runs, to the calling thread. */
typedef struct tn_driver {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  double lr; /* of this step, after the schedule; apply's items carry each parameter's own */
  /* losses[i] = mean nats per predicted token over all of the step's data with the parameters at at[i]: the same tokens every time, nothing
   * random in the model, sums in f64. The host may evaluate them together. A loss that is not finite is an answer, not an error. */
  int32_t (*losses)(void* self, const tn_displacement* const* at, uint64_t n, double* losses); /* [stream] */
} tn_driver; /* fence drive/1 */

enum { TN_DRIVEN_SKIP = 1 /* no update in this step: apply is not called */ };
typedef struct tn_driven {
  uint32_t struct_size;
  uint32_t flags; /* TN_DRIVEN_* */
  double loss;    /* to report for the step: of the unperturbed model as nearly as the plugin knows it */
} tn_driven; /* fence drive/1 */

typedef struct tn_drive {
  uint32_t struct_size;
  uint32_t reserved;
  /* Asks for the losses of this step and keeps what apply needs. */
  int32_t (*drive)(tn_optimizer* self, const tn_step* step, const tn_driver* driver, tn_driven* out);            /* [instance] */
  /* out = elements [begin, end) of the displaced parameter, a flat tensor of f32 or bf16. `param` is the parameter as it is; out may be
   * that very range of it. Depends on nothing but its arguments and what plan said of this step. */
  int32_t (*perturb)(tn_optimizer* self, const tn_exec* exec, uint32_t uid, const tn_tensor* param, const tn_displacement* at,
                     int64_t begin, int64_t end, tn_tensor* out);                                                 /* [stream] */
} tn_drive; /* fence drive/1 */

#endif
