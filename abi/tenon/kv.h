/* Tenon ABI 0.9: extension org.tenon.kv/1 of quantizers: key-value caches that are more than codes of k and v (CSKV, Wang et al. 2024).
 *
 * The host keeps the newest tokens exact. When `window` + `group` of them wait, the oldest `group` go into the store, and attention over
 * later rows sees them as read() gives them back; a prompt attends to its own exact k and v. What is stored is made from the input x of the k
 * and v projections, and read() gives what those projections would have given, before bias, norm of heads and rotation, which the host
 * applies with the tokens' own positions.
 *
 * A quantizer with TN_SITE_KV_CACHE and without this extension is used through encode and decode of its own table: each group of each layer
 * is a target [group, heads · d] of k (rotated, TN_ROLE_K) and one of v (TN_ROLE_V). */
#ifndef TENON_KV_H
#define TENON_KV_H

#include "tenon/calibrate.h"
#include "tenon/quantizer.h"

#define TN_EXT_KV "org.tenon.kv/1"

/* One layer. */
typedef struct tn_kv_layer {
  uint32_t struct_size;
  int32_t block;
  int64_t hidden;  /* width of x */
  int64_t k_width; /* outputs of the k projection: heads · d */
  int64_t v_width;
  tn_dtype dtype;  /* of x, k and v */
  uint32_t reserved;
} tn_kv_layer; /* fence kv/1 */

typedef struct tn_kv_plan {
  uint32_t struct_size;
  uint32_t statistic;  /* TN_STATISTIC_* of x over calibration text, for fit(), a Gram matrix whole; 0: none */
  int64_t sequences;   /* of text, where there is a statistic */
  int64_t length;      /* tokens of a sequence */
  int64_t window;      /* newest tokens that stay exact, at least */
  int64_t group;       /* tokens that are stored together */
} tn_kv_plan; /* fence kv/1 */

enum { TN_KV_OP_UNDEFINED = 0, TN_KV_FIT = 1, TN_KV_WRITE = 2, TN_KV_READ = 3 };

typedef struct tn_kv {
  uint32_t struct_size;
  uint32_t reserved;
  int32_t (*plan)(tn_quantizer* self, tn_kv_plan* out);                                                             /* [any-thread] */
  /* Components of a layer that all sequences share, and of the store of one sequence of up to `groups` groups. */
  int32_t (*factors)(tn_quantizer* self, const tn_kv_layer* layer, const tn_component_sink* sink);                  /* [any-thread] */
  int32_t (*store)(tn_quantizer* self, const tn_kv_layer* layer, int64_t groups, const tn_component_sink* sink);    /* [any-thread] */
  /* Workspace of one call (TN_KV_*) over `groups` groups. */
  int32_t (*estimate)(tn_quantizer* self, const tn_device_api* api, tn_device* device, const tn_kv_layer* layer, uint32_t op, int64_t groups,
                      tn_estimate* out);                                                                            /* [any-thread] */
  /* Fills the factors from the weights of the projections, f32 [width, hidden], and the statistic over `tokens` tokens, or null. */
  int32_t (*fit)(tn_quantizer* self, const tn_exec* exec, const tn_kv_layer* layer, const tn_tensor* w_k, const tn_tensor* w_v,
                 const tn_tensor* statistic, int64_t tokens, tn_tensor* const* factors);                            /* [stream] */
  /* Groups [first, first + n) of a store that was laid out for `groups`, from their inputs x [n · group, hidden]. */
  int32_t (*write)(tn_quantizer* self, const tn_exec* exec, const tn_kv_layer* layer, const tn_tensor* x, tn_tensor* const* factors, int64_t groups,
                   int64_t first, int64_t n, tn_tensor* const* store);                                              /* [stream] */
  /* k [n · group, k_width] and v [n · group, v_width] of those groups. */
  int32_t (*read)(tn_quantizer* self, const tn_exec* exec, const tn_kv_layer* layer, tn_tensor* const* factors, int64_t groups, int64_t first,
                  int64_t n, tn_tensor* const* store, tn_tensor* k, tn_tensor* v);                                  /* [stream] */
} tn_kv; /* fence kv/1 */

#endif
