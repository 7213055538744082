/* Tenon ABI 0.9: optimizers.
 *
 * Life: create → bind(all parameters) → state_layout per parameter (the host allocates, counts and checkpoints the states) → every
 * step: plan, prepare and apply (one item inside backward, or all), finish. The plugin holds only what is small and on the host. */
#ifndef TENON_OPTIMIZER_H
#define TENON_OPTIMIZER_H

#include "tenon/device.h"
#include "tenon/plugin.h"

typedef struct tn_optimizer tn_optimizer;

enum { TN_REPR_UNDEFINED = 0, TN_REPR_DENSE = 1, TN_REPR_QUANTIZED = 2 };

/* A parameter. Fixed after bind. */
typedef struct tn_param {
  uint32_t struct_size;
  uint32_t uid;     /* stable across runs; the random stream's uid */
  uint32_t role;    /* TN_ROLE_* */
  uint32_t repr;    /* TN_REPR_* */
  int32_t block;    /* layer, or -1 outside the stack */
  int32_t tied_to;  /* uid of the owner, or -1 */
  int32_t n_heads;  /* of its attention layer, 0 where meaningless */
  int32_t n_kv_heads;
  tn_dtype dtype;   /* as stored */
  int32_t ndim;
  int32_t in_axis;  /* which axis is the linear's input; -1: none */
  uint32_t reserved;
  int64_t shape[4];
  const char* name; /* for people, never for logic; valid during bind */
} tn_param;         /* fence 0.9 */

enum { TN_SLOT_UNDEFINED = 0, TN_SLOT_VALUE = 1, TN_SLOT_CODES = 2, TN_SLOT_SCALES = 3, TN_SLOT_BASIS = 4 };

/* One state of one parameter; starts as zero bytes. `name` is its key in checkpoints. The host copies the struct. */
typedef struct tn_state_slot {
  uint32_t struct_size;
  uint32_t role;  /* TN_SLOT_*: decides what a sharding or offloading host may do with it */
  uint32_t flags; /* none yet: 0 */
  int32_t ndim;
  tn_dtype dtype;
  uint32_t reserved;
  int64_t shape[4];
  const char* name;
} tn_state_slot; /* fence 0.9 */

typedef struct tn_state_sink {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  int32_t (*declare)(void* self, const tn_state_slot* slot);
} tn_state_sink; /* fence 0.9 */

/* One optimizer step of the run. */
typedef struct tn_step {
  uint32_t struct_size;
  uint32_t n_micro_batches;
  int64_t step;        /* from 1 */
  int64_t total_steps; /* 0: unknown */
  int64_t tokens;      /* seen before this step */
  uint64_t seed;       /* of the run */
} tn_step;             /* fence 0.9 */

/* plan() says what differs from the default, which is: every bound parameter trains. */
enum { TN_PLAN_FREEZE = 1, TN_PLAN_STATES_CHANGED = 2 };
typedef struct tn_plan_sink {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  int32_t (*param)(void* self, uint32_t uid, uint32_t flags);
} tn_plan_sink; /* fence 0.9 */

enum { TN_ITEM_STOCHASTIC_ROUNDING = 1, TN_ITEM_GRAD_MAY_BE_CLOBBERED = 2 };

/* One parameter in one update. All tensors are on exec's device and dense row-major. */
typedef struct tn_item {
  uint32_t struct_size;
  uint32_t uid;
  uint32_t flags; /* TN_ITEM_* */
  uint32_t n_states;
  tn_tensor* param;
  tn_tensor* master;        /* f32 master, or null; if given it is the truth and param its rounding */
  tn_tensor* grad;          /* f32 or bf16; null for a parameter without gradient */
  tn_tensor* const* states; /* in the order of state_layout */
  int64_t t;                /* this parameter's own updates, from 1 */
  double lr;                /* after schedule and group multiplier */
  double decay_scale;       /* multiplies the plugin's weight decay; 0 = excluded from decay */
  double grad_scale;        /* multiplies the gradient: clip, loss scale, 1/n */
  tn_rng rng;               /* for stochastic rounding and the method's own draws in this update */
} tn_item;                  /* fence 0.9 */

/* finish() may advise the host. */
enum { TN_ADVICE_DEGRADED = 1 };
typedef struct tn_advice {
  uint32_t struct_size;
  uint32_t flags;
  void* self;
  int32_t (*metric)(void* self, const char* name, double value); /* logged with the step */
  double batch_multiplier;                                       /* of the next batch; 1 */
} tn_advice;                                                     /* fence 0.9 */

enum { /* caps */
  TN_OPTIMIZER_ONE_AT_A_TIME = 1, /* apply() takes any subset of items in any order: usable inside backward */
  TN_OPTIMIZER_ROWWISE = 2,       /* states and update can be cut between rows */
  TN_OPTIMIZER_ELEMENTWISE = 4    /* … or anywhere */
};

typedef struct tn_optimizer_api {
  uint32_t struct_size;
  uint32_t caps; /* TN_OPTIMIZER_* */

  int32_t (*create)(const tn_host* host, const tn_hyper* const* hypers, uint64_t n_hypers, tn_optimizer** out);    /* [any-thread] */
  void (*destroy)(tn_optimizer* self);
  int32_t (*supports)(tn_optimizer* self, const tn_query* query);                                                  /* [any-thread] */
  int32_t (*bind)(tn_optimizer* self, const tn_param* const* params, uint64_t n);                                  /* [instance] */
  int32_t (*state_layout)(tn_optimizer* self, uint32_t uid, const tn_state_sink* sink);                            /* [any-thread] */
  /* Bytes and FLOPs of one update of this parameter, workspace for prepare and apply included. `device` answers gemm_workspace. */
  int32_t (*estimate)(tn_optimizer* self, const struct tn_device_api* api, tn_device* device, uint32_t uid, tn_estimate* out); /* [any-thread] */

  /* Before the forward pass of each step; null = every parameter trains. */
  int32_t (*plan)(tn_optimizer* self, const tn_step* step, const tn_plan_sink* sink);                              /* [instance] */
  /* Measurements that must precede any update (norms, bases); null = none. Same items as the apply that follows. */
  int32_t (*prepare)(tn_optimizer* self, const tn_exec* exec, const tn_item* const* items, uint64_t n);            /* [stream] */
  /* The update. Non-finite gradients never reach it: the host skips such a step. exec.workspace holds the largest item's estimate. */
  int32_t (*apply)(tn_optimizer* self, const tn_exec* exec, const tn_item* const* items, uint64_t n);              /* [stream] */
  int32_t (*finish)(tn_optimizer* self, const tn_step* step, tn_advice* advice);                                   /* [instance]; null = nothing to say */

  /* The small host-side state that is not in slots (null = none): part of every checkpoint. */
  int32_t (*save)(tn_optimizer* self, const tn_sink* sink);                                                        /* [instance] */
  int32_t (*load)(tn_optimizer* self, const void* bytes, uint64_t n_bytes);                                        /* [instance] */
} tn_optimizer_api; /* fence 0.9 */

#endif
