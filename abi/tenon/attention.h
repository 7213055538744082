/* Tenon ABI 0.9: attention.
 *
 * Tensors come through named ports, masks as structured terms over global positions, never as a T×T tensor. Calls may be partial
 * (emit O and LSE to be merged) and accumulate gradients, so one kernel serves packing, sliced schedules, rings and decoding.
 * Conventions: layout [B, T, H, d], any strides with unit stride along d; query head h uses key head floor(h / (Hq / Hkv)); LSE is
 * natural-log f32 [B, Hq, Tq] of the scaled scores; a row that sees no key has O = 0, LSE = −inf and no gradient. */
#ifndef TENON_ATTENTION_H
#define TENON_ATTENTION_H

#include "tenon/device.h"
#include "tenon/plugin.h"

typedef struct tn_attention tn_attention;

enum { TN_PLACEMENT_UNDEFINED = 0, TN_PLACEMENT_CORE = 1 /* q, k, v → o */, TN_PLACEMENT_SUBLAYER = 2 /* x → y, owns projections */ };

/* Port ids: append-only; vendors from 0x8000. */
enum {
  TN_PORT_UNDEFINED = 0,
  TN_PORT_Q = 1,
  TN_PORT_K = 2,
  TN_PORT_V = 3,
  TN_PORT_O = 4,
  TN_PORT_LSE = 5,
  TN_PORT_SINK_LOGIT = 6, /* f32 [Hq]: a key without value that takes mass */
  TN_PORT_DO = 7,
  TN_PORT_DQ = 8,
  TN_PORT_DK = 9,
  TN_PORT_DV = 10,
  TN_PORT_D_LSE = 11,
  TN_PORT_D_SINK_LOGIT = 12
};

enum { TN_BIND_ACCUMULATE = 1 /* add into the tensor instead of overwriting it */ };
typedef struct tn_port_bind {
  uint32_t struct_size;
  uint32_t port;  /* TN_PORT_* */
  uint32_t flags; /* TN_BIND_* */
  uint32_t reserved;
  tn_tensor* tensor;
} tn_port_bind; /* fence 0.9 */

/* visible(i, j) = AND of all terms; i and j are global positions of query and key. */
enum {
  TN_MASK_UNDEFINED = 0,
  TN_MASK_CAUSAL = 1, /* j <= i */
  TN_MASK_WINDOW = 2, /* i − left <= j <= i + right, both ends inclusive, −1 = unbounded; a Hugging Face sliding_window W is left = W − 1 */
  TN_MASK_SINK = 3    /* with WINDOW: keys j < n stay visible */
};
typedef struct tn_mask_term {
  uint32_t struct_size;
  uint32_t kind;        /* TN_MASK_*; a kind that the plugin does not know makes plan() answer TN_E_UNSUPPORTED */
  int64_t left, right;  /* WINDOW */
  int64_t n;            /* SINK */
} tn_mask_term;         /* fence 0.9 */

/* Segment s: query rows [q_begin, +q_len) see keys [k_begin, +k_len) of the flattened [1, nnz, H, d] tensors, and no others; q_pos and
 * k_pos are the global positions of their first rows. Query ranges do not overlap; key ranges may. Host memory. */
typedef struct tn_segments {
  uint32_t struct_size;
  uint32_t n;
  const int64_t *q_begin, *q_len, *k_begin, *k_len, *q_pos, *k_pos;
} tn_segments; /* fence 0.9 */

typedef struct tn_attention_config { /* of one layer */
  uint32_t struct_size;
  uint32_t n_heads, n_kv_heads; /* Hq, Hkv; Hkv divides Hq */
  uint32_t d_qk, d_v;
  uint32_t layer, n_layers;
  uint32_t head_offset, n_heads_global; /* this rank's slice; 0 and n_heads on one device */
  uint32_t reserved;
  double scale;   /* of the scores; 0 = 1/sqrt(d_qk) */
  double softcap; /* 0 = off */
} tn_attention_config; /* fence 0.9 */

enum { TN_PHASE_UNDEFINED = 0, TN_PHASE_TRAIN = 1, TN_PHASE_PREFILL = 2, TN_PHASE_DECODE = 3 };
enum { TN_ATTENTION_PARTIAL = 1 /* O in f32 with its LSE, to be merged by the host */ };
typedef struct tn_attention_shape {
  uint32_t struct_size;
  uint32_t phase; /* TN_PHASE_* */
  uint32_t flags; /* TN_ATTENTION_* */
  uint32_t n_mask;
  int64_t batch, t_q, t_k;                   /* segments given: batch = 1, t_q = t_k = rows of the flattened tensors */
  int64_t q_pos, k_pos;                      /* without segments: global position of row 0, same for every batch entry */
  const tn_mask_term* const* mask;
  const tn_segments* segments; /* or null: every batch entry is one segment */
  tn_dtype dtype;              /* of q, k, v, o */
  uint16_t reserved[2];
} tn_attention_shape; /* fence 0.9 */

/* A plan is a value: it owns nothing and may be copied. */
typedef struct tn_attention_plan {
  uint32_t struct_size;
  uint32_t tile_q, tile_k; /* a scheduler cuts work at multiples of these */
  uint32_t reserved;
  tn_estimate forward, backward; /* workspace, FLOPs, traffic; forward.saved_bytes: what backward needs beyond q, k, v, o and lse */
} tn_attention_plan; /* fence 0.9 */

enum { TN_STATE_UNDEFINED = 0, TN_STATE_PER_TOKEN = 1, TN_STATE_FIXED = 2, TN_STATE_RING = 3 };
/* Decode state of one sequence: kind, bytes fixed and per token. PER_TOKEN of k and v: the host appends, the kernel reads. */
typedef struct tn_attention_state {
  uint32_t struct_size;
  uint32_t kind; /* TN_STATE_* */
  uint64_t fixed_bytes, bytes_per_token;
  int64_t ring_tokens; /* RING: tokens kept */
} tn_attention_state;  /* fence 0.9 */

typedef struct tn_attention_call {
  uint32_t struct_size;
  uint32_t flags;
  const tn_exec* exec;
  double dropout; /* [0, 1); keep mask keyed by rng and (b, h, i, j) */
  tn_rng rng;
  int64_t step;
} tn_attention_call; /* fence 0.9 */

typedef struct tn_attention_api {
  uint32_t struct_size;
  uint32_t placement; /* TN_PLACEMENT_* */

  int32_t (*create)(const tn_host* host, const tn_hyper* const* hypers, uint64_t n_hypers, const tn_attention_config* config,
                    tn_attention** out);                                                                            /* [any-thread] */
  void (*destroy)(tn_attention* self);
  int32_t (*supports)(tn_attention* self, const tn_query* query);                                                   /* [any-thread] */
  int32_t (*plan)(tn_attention* self, const tn_device_api* api, tn_device* device, const tn_attention_shape* shape,
                  tn_attention_plan* out);                                                                          /* [any-thread] */
  /* Forward reads q, k, v and writes o and, if bound, lse. Backward reads q, k, v, o, lse and do, and writes dq, dk, dv. [stream] */
  int32_t (*forward)(tn_attention* self, const tn_attention_call* call, const tn_attention_shape* shape, const tn_port_bind* const* binds,
                     uint64_t n_binds);
  int32_t (*backward)(tn_attention* self, const tn_attention_call* call, const tn_attention_shape* shape, const tn_port_bind* const* binds,
                      uint64_t n_binds);
  int32_t (*state)(tn_attention* self, const tn_dtype* dtype, tn_attention_state* out);                             /* [any-thread] */
} tn_attention_api; /* fence 0.9 */

#endif
