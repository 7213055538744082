/* Tenon ABI 0.9: attention.
 *
 * Tensors come through named ports, masks as structured terms over global positions, never as a T×T tensor. Calls may be partial
 * (emit O and LSE to be merged) and accumulate gradients, so one kernel serves packing, sliced schedules, rings and decoding.
 * Conventions: layout [B, T, H, d], any strides with unit stride along d; query head h uses key head floor(h / (Hq / Hkv)); LSE is
 * natural-log f32 [B, Hq, Tq] of the scaled scores; a row that sees no key has O = 0, LSE = −inf and no gradient. A kernel that is no
 * softmax writes to LSE the log of what it divided the row by, and says what it computes with org.tenon.attention-form/1. */
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
  TN_PORT_D_SINK_LOGIT = 12,
  TN_PORT_STATE_IN = 13,    /* decode state, see tn_attention_state; unbound: a sequence begins */
  TN_PORT_STATE_OUT = 14,
  TN_PORT_D_STATE_IN = 15,  /* gradients of states that are f32 numbers, in the state's own layout */
  TN_PORT_D_STATE_OUT = 16,
  TN_PORT_LOG_DECAY = 17    /* f32 [Hq], <= 0: the log of what one position takes off, instead of the kernel's own */
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
  TN_MASK_SINK = 3,   /* with WINDOW: keys j < n stay visible */
  TN_MASK_BLOCKS = 4  /* only keys in the tiles of `blocks` */
};
/* Visible tiles of block_q × block_k positions. Query tile i (positions i · block_q …) sees the key tiles
 * column[row_begin[i] … row_begin[i + 1]), ascending; a tile beyond the map sees nothing. Map m has row_begin + m · (n_rows + 1), all maps
 * one `column`. Host memory. Kernels derive the column order of a backward pass themselves. */
typedef struct tn_block_map {
  uint32_t struct_size;
  uint32_t n_maps;           /* 1 for all heads, or one for each of this rank's key heads */
  uint32_t block_q, block_k; /* powers of two, 16 or more */
  int64_t n_rows, n_columns; /* query tiles, key tiles */
  const int64_t* row_begin;  /* [n_maps, n_rows + 1] */
  const int32_t* column;
} tn_block_map;              /* fence 0.9 */
typedef struct tn_mask_term {
  uint32_t struct_size;
  uint32_t kind;        /* TN_MASK_*; a kind that the plugin does not know makes plan() answer TN_E_UNSUPPORTED */
  int64_t left, right;  /* WINDOW */
  int64_t n;            /* SINK */
  const tn_block_map* blocks; /* BLOCKS; null in other kinds */
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
  int64_t state_tokens;        /* with a state port: the `tokens` that state() was asked about */
} tn_attention_shape; /* fence 0.9 */

/* A plan is a value: it owns nothing and may be copied. */
typedef struct tn_attention_plan {
  uint32_t struct_size;
  uint32_t tile_q, tile_k; /* a scheduler cuts work at multiples of these */
  uint32_t reserved;
  tn_estimate forward, backward; /* workspace, FLOPs, traffic; forward.saved_bytes: what backward needs beyond q, k, v, o and lse */
} tn_attention_plan; /* fence 0.9 */

/* What a mixer remembers of a sequence while it is decoded. The host owns it and may copy, keep or drop it as bytes: nothing in it depends on
 * where it lies. It cannot be shortened, so a host that may go back keeps a copy.
 *   PER_TOKEN  grows with the sequence. Of a core kernel it is the rows of k and v: the host appends them and binds K and V over all rows so
 *              far; no state port.
 *   FIXED      the same size for every length.
 *   RING       old positions are overwritten: grows more slowly than the sequence, or not at all.
 * FIXED, RING and every state of a sub-layer mixer are opaque: the host binds STATE_IN (after position q_pos − 1) and STATE_OUT (after the
 * call's last row), which may be the same memory, and q, k and v with the call's rows alone (t_k = t_q, k_pos = q_pos). Both are
 * u8 [B, bytes], with segments [segments, bytes]; each row is aligned to TN_ALIGNMENT. PREFILL begins a sequence, DECODE goes on with one. */
enum { TN_STATE_UNDEFINED = 0, TN_STATE_PER_TOKEN = 1, TN_STATE_FIXED = 2, TN_STATE_RING = 3 };
typedef struct tn_attention_state {
  uint32_t struct_size;
  uint32_t kind;  /* TN_STATE_* */
  uint64_t bytes; /* of one sequence of up to the asked number of tokens */
} tn_attention_state; /* fence 0.9 */

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
  int32_t (*state)(tn_attention* self, const tn_dtype* dtype, int64_t tokens, tn_attention_state* out);             /* [any-thread] */
} tn_attention_api; /* fence 0.9 */

#endif
