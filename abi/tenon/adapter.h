/* Tenon ABI 0.9: adapters.
 *
 * An adapter is called *instead of* the linear that it adapts; the frozen weight is an operator, never a tensor, so every adapter
 * composes with every quantizer and with other adapters. What survives to backward is the adapter's decision (tn_saver). Life:
 * create → bind(sites) → the host allocates the parameters → init_param or loading → forward and backward on any row range, in any
 * order, repeated (recompute gives the same numbers; gradients accumulate). */
#ifndef TENON_ADAPTER_H
#define TENON_ADAPTER_H

#include "tenon/device.h"
#include "tenon/plugin.h"

typedef struct tn_adapter tn_adapter;

/* A place in the model that could be adapted. LINEAR: a linear y[T, m] = x[T, n] · W^T. SUBLAYER: the output of an attention or MLP
 * sub-layer before it joins the residual, y = x with m = n = hidden: the base is the identity and cannot be read.
 * LOOKUP: the embedding, y[T, n] = rows x of the table W[m, n], m = vocabulary; x is int32 [T], below m. It has no gradient: dx is null, and
 * backward calls base.backward(dy, 1, beta, null) all the same, through which adapters below get their gradients. */
enum { TN_PLACE_UNDEFINED = 0, TN_PLACE_LINEAR = 1, TN_PLACE_SUBLAYER = 2, TN_PLACE_LOOKUP = 3 };
/* OWNED: an adapter took the weight over (tn_adapter_sink.own). ADAPTED: another adapter of the run took the site before. */
enum { TN_LINEAR_QUANTIZED = 1, TN_LINEAR_TIED = 2, TN_LINEAR_OWNED = 4, TN_LINEAR_ADAPTED = 8 };
typedef struct tn_site {
  uint32_t struct_size;
  uint32_t id;    /* index of the site, the argument of every later call */
  uint32_t place; /* TN_PLACE_* */
  uint32_t role;  /* TN_ROLE_*; of a sub-layer TN_ROLE_O (attention) or TN_ROLE_DOWN (MLP), the linear that ends it */
  uint32_t flags; /* TN_LINEAR_* */
  int32_t block;
  int64_t m, n;     /* out, in; of a lookup the table's rows and columns */
  const char* path; /* module path as in the Hugging Face model: "model.layers.3.self_attn.q_proj"; sub-layer: "model.layers.3.self_attn" */
} tn_site;          /* fence 0.9 */

/* Neither flag: a buffer that init_param makes again from the base (norms of the frozen weight). INT32: held as int32, not trained.
 * INT8 likewise. A buffer that training changes (statistics, schedules) is SAVED, and part of every checkpoint. */
enum { TN_ADAPTER_PARAM_TRAINABLE = 1, TN_ADAPTER_PARAM_SAVED = 2, TN_ADAPTER_PARAM_INT32 = 4, TN_ADAPTER_PARAM_INT8 = 8 };
typedef struct tn_adapter_param {
  uint32_t struct_size;
  uint32_t id;    /* chosen by the adapter, dense from 0 */
  int32_t site;   /* or -1: shared by all sites of this adapter, whose gradients add up in it; init_param sees no base */
  uint32_t flags; /* TN_ADAPTER_PARAM_* */
  int32_t ndim;
  uint32_t reserved;
  int64_t shape[4];        /* held in f32 by the host, with an f32 gradient where trainable */
  double lr_scale, decay_scale;
  const char* file_key;    /* in adapter_model.safetensors, without the adapter's name */
} tn_adapter_param;        /* fence 0.9 */

/* What bind() answers: which sites it takes and which parameters it owns. What it keeps of x for backward: x whole, tensors of its own,
 * nothing, or ROWS: x whole or a sample of its rows, as tn_saved gives them, for a sum over rows. */
enum { TN_RETAIN_UNDEFINED = 0, TN_RETAIN_INPUT = 1, TN_RETAIN_OWN = 2, TN_RETAIN_NOTHING = 3, TN_RETAIN_ROWS = 4 };
typedef struct tn_adapter_sink {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  int32_t (*site)(void* self, uint32_t site, uint32_t retention);
  int32_t (*param)(void* self, const tn_adapter_param* param);
  /* The adapter holds the weight of a site that it took: the host keeps none, the functions of its base are null in
   * every call but init_param, a bias stays with the host, and merge_rows finds w zeroed. from_base: init_param sees the model's own
   * weight (f32); else it is neither loaded nor ever there. One owner a site. */
  int32_t (*own)(void* self, uint32_t site, uint32_t from_base);
  /* The model's own dense parameters of this TN_ROLE_* train too (norm gains beside bottlenecks; all that pretraining leaves dense). They
   * are saved with the adapter under their plain module paths. */
  int32_t (*train)(void* self, uint32_t role);
} tn_adapter_sink; /* fence 0.9 */

/* The frozen weight [m, n] as an operator; owned by the host, valid during the call. Reads are in the dtype of `out`. Of a lookup, forward
 * gives y = alpha · W[x] + beta · y. */
typedef struct tn_base_linear {
  uint32_t struct_size;
  uint32_t flags; /* TN_LINEAR_* */
  void* self;
  int64_t m, n;
  int32_t (*forward)(void* self, const tn_tensor* x, double alpha, double beta, tn_tensor* y);      /* y = alpha · x W^T (+ bias) + beta · y */
  int32_t (*backward)(void* self, const tn_tensor* dy, double alpha, double beta, tn_tensor* dx);   /* dx = alpha · dy W + beta · dx */
  int32_t (*read_rows)(void* self, int64_t begin, int64_t end, tn_tensor* out);                     /* out[end − begin, n] = W[begin:end] */
  /* A lease to write: the stored weight itself, of any strides, which this adapter alone may use until it releases it in the same call;
   * between the two it calls forward and backward as it likes, and it leaves behind what it found, bit for bit. Null where the weight
   * is not dense, is shared (tied), trains, or lies below another adapter. */
  int32_t (*lease)(void* self, tn_tensor** weight);
  int32_t (*release)(void* self);
  const tn_tensor* bias; /* [m] of the model, which forward adds; null = none */
} tn_base_linear; /* fence 0.9 */

/* A tensor that a forward call leaves for its backward. Rows of `tensor` may be a subset of the tokens. */
typedef struct tn_saved {
  uint32_t struct_size;
  uint32_t reserved;
  tn_tensor* tensor;
  const tn_tensor* row_index;  /* int32, null = all rows */
  const tn_tensor* row_weight; /* f32, null = 1 */
} tn_saved;                    /* fence 0.9 */

/* Slots are numbered by the adapter from 0, per call. keep_input is reference-counted: q, k and v share one x. */
typedef struct tn_saver {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  int32_t (*keep_input)(void* self, uint32_t slot);
  int32_t (*alloc)(void* self, uint32_t slot, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out);
  int32_t (*get)(void* self, uint32_t slot, const tn_saved** out);
} tn_saver; /* fence 0.9 */

typedef struct tn_param_view {
  uint32_t struct_size;
  uint32_t id;
  tn_tensor* value; /* f32, or as declared */
  tn_tensor* grad;  /* f32, add into it; null: not trained in this call */
} tn_param_view;    /* fence 0.9 */

enum { TN_CALL_TRAIN = 1, TN_CALL_RECOMPUTE = 2, TN_CALL_NEED_DX = 4, TN_CALL_SAVE = 8 };
typedef struct tn_adapter_call {
  uint32_t struct_size;
  uint32_t flags; /* TN_CALL_*; without SAVE nothing may be saved */
  const tn_exec* exec;
  const tn_saver* saver;
  const tn_param_view* const* params; /* of this site and shared ones, in the order in which bind() declared them */
  uint64_t n_params;
  int64_t step, micro_batch;
  int64_t row_begin;  /* index of the call's first row within the micro-batch: keys dropout, so tiles replay the same numbers */
  double scale;       /* run-time strength of this adapter, 1 */
  tn_rng rng;         /* stream separates step, micro-batch and layer; element index = global row · width + column */
} tn_adapter_call;    /* fence 0.9 */

/* SURROGATE_GRADIENT: parameters' gradients are those of a surrogate by design (a norm held constant, rounding passed straight
 * through), so finite differences do not give them; dx is exact all the same. */
enum { TN_ADAPTER_MERGES = 1, TN_ADAPTER_SURROGATE_GRADIENT = 2 };

typedef struct tn_adapter_api {
  uint32_t struct_size;
  uint32_t caps; /* TN_ADAPTER_* */

  /* config_json: the text of an adapter_config.json that shapes the adapter (its keys win over hypers), or null. [any-thread] */
  int32_t (*create)(const tn_host* host, const tn_hyper* const* hypers, uint64_t n_hypers, const char* config_json, tn_adapter** out);
  void (*destroy)(tn_adapter* self);
  int32_t (*supports)(tn_adapter* self, const tn_query* query);                                                     /* [any-thread] */
  /* Sees the whole model once and answers through the sink. No site taken: TN_E_NOT_FOUND. [instance] */
  int32_t (*bind)(tn_adapter* self, const tn_site* const* sites, uint64_t n, const tn_adapter_sink* sink);
  /* Cost of one forward (backward != 0: backward) call over `rows` rows of dtype `compute`. [any-thread] */
  int32_t (*estimate)(tn_adapter* self, const tn_device_api* api, tn_device* device, uint32_t site, int64_t rows, const tn_dtype* compute,
                      uint32_t backward, tn_estimate* out);
  /* Starting value of one parameter, in the order of ids. base: the site's frozen weight, for methods that start from it; null for a
   * shared parameter. The workspace holds at least 256 KiB and four f32 rows of the weight. [stream] */
  int32_t (*init_param)(tn_adapter* self, const tn_exec* exec, uint32_t param, const tn_base_linear* base, const tn_rng* rng,
                        tn_tensor* value);

  /* y[T, m] of the adapted linear ([T, n] of a lookup); x (but for a lookup's) and y in the compute dtype. y null: only what backward needs is wanted; base is not called. [stream] */
  int32_t (*forward)(tn_adapter* self, uint32_t site, const tn_adapter_call* call, const tn_base_linear* base, const tn_tensor* x,
                     tn_tensor* y);
  /* dx[T, n] = gradient + beta · dx where NEED_DX, and parameter gradients, accumulated. [stream] */
  int32_t (*backward)(tn_adapter* self, uint32_t site, const tn_adapter_call* call, const tn_base_linear* base, const tn_tensor* dy,
                      double beta, tn_tensor* dx);

  /* w[end − begin, n] (f32) += rows of the delta. Null or TN_E_UNSUPPORTED with a reason: cannot be merged. [stream] */
  int32_t (*merge_rows)(tn_adapter* self, const tn_exec* exec, uint32_t site, const tn_param_view* const* params, uint64_t n_params,
                        int64_t begin, int64_t end, tn_tensor* w);
  /* The adapter_config.json of this adapter (UTF-8), as PEFT reads it. [instance] */
  int32_t (*write_config)(tn_adapter* self, const tn_sink* sink);
} tn_adapter_api; /* fence 0.9 */

#endif
