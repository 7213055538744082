/* Tenon ABI 0.9: extension org.tenon.mixer/1 of attention plugins of the placement SUBLAYER: x → y with projections of their own.
 *
 * A mixer stands where a layer would project q, k and v, attend, and project o: x[rows, hidden], the normalised hidden states, becomes
 * y[rows, hidden], which joins the residual. It goes on using those of the layer's four linears that it keeps, as operators, so that
 * quantizers and adapters compose with it; the others leave the model. Its own parameters belong to the host: they train, are saved and
 * load like the model's, and start from the model's own weights where the plugin converts them. One instance a layer. Every tensor of
 * a pass, and every product, comes from the host, so the memory forecast makes the same calls on tensors without memory.
 * Of tn_attention_api such a plugin answers create, destroy, supports and state (its decode state); plan, forward and backward refuse. */
#ifndef TENON_MIXER_H
#define TENON_MIXER_H

#include "tenon/adapter.h"
#include "tenon/attention.h"

#define TN_EXT_MIXER "org.tenon.mixer/1"

/* QK_NORM: the model normalises q and k per head behind their linears, which the host's operators do not. QKV_BIAS: q, k and v have biases,
 * which `linear` adds and read_rows does not show. */
enum { TN_MIXER_LAYER_QK_NORM = 1, TN_MIXER_LAYER_QKV_BIAS = 2 };
typedef struct tn_mixer_layer { /* heads and widths are in tn_attention_config */
  uint32_t struct_size;
  uint32_t flags; /* TN_MIXER_LAYER_* */
  int64_t hidden;
  int64_t window;        /* keys that a query of this layer sees, its own included; 0 = all */
  const float* inv_freq; /* the model's rotary frequencies [d_qk / 2], host memory, valid during the call */
  double rope_scale;     /* multiplies their cosines and sines */
} tn_mixer_layer;        /* fence mixer/1 */

/* F32: kept in f32 whatever the model's storage (kernels, gates). BUFFER: never trained, and made again by start(), not saved. */
enum { TN_MIXER_PARAM_F32 = 1, TN_MIXER_PARAM_BUFFER = 2 };
typedef struct tn_mixer_param {
  uint32_t struct_size;
  uint32_t id;    /* dense from 0 */
  uint32_t flags; /* TN_MIXER_PARAM_* */
  uint32_t role;  /* TN_ROLE_*, for optimizers and their routes; matrices are [out, in] */
  int32_t ndim;   /* 1 or 2 */
  uint32_t reserved;
  int64_t shape[4];
  double lr_scale, decay_scale;
  const char* key; /* within the layer's self_attn: "kv_a_proj.weight" */
} tn_mixer_param;  /* fence mixer/1 */

typedef struct tn_mixer_sink {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  int32_t (*keep)(void* self, uint32_t role); /* TN_ROLE_Q, K, V or O */
  int32_t (*param)(void* self, const tn_mixer_param* param);
  /* A CORE kernel for the mixer's use, opened from a spec ("flash-attention"), with the causal mask of this window and the pass's
   * documents. *id counts from 0. */
  int32_t (*core)(void* self, const char* spec, const tn_attention_config* config, int64_t window, uint32_t* id);
} tn_mixer_sink; /* fence mixer/1 */

/* PLAN: tensors have no memory; every function of the table is called as ever, nothing else touches them. SAVE: one backward or none
 * follows. DECODE: the rows continue one sequence. */
enum { TN_MIXER_PLAN = 1, TN_MIXER_SAVE = 2, TN_MIXER_DECODE = 4 };

typedef struct tn_mixer_ops {
  uint32_t struct_size;
  uint32_t flags; /* TN_MIXER_* */
  void* self;
  const tn_exec* exec;   /* for kernels of the plugin's own; no workspace: alloc one */
  const tn_saver* saver; /* alloc and get, by slot; tensors live until backward has ended. Null where nothing may be saved */
  const tn_param_view* const* params; /* by id; gradients in f32 or in the parameter's type, to be added into */
  uint64_t n_params;
  int64_t rows, hidden;
  int64_t sequences, length;   /* rows = sequences · length, in order */
  const tn_segments* segments; /* documents as ranges of rows (the q fields), or null: every sequence is one */
  const tn_tensor* positions;  /* int32 [rows]: position within the document */
  tn_dtype compute;            /* of activations */
  uint16_t reserved[2];
  /* DECODE: rows of the sequence before these, and bytes [n] as tn_attention_api.state asked for them, which the mixer alone reads and
   * writes; zero where past = 0. */
  int64_t past;
  tn_tensor* state;

  /* A tensor of the pass, contents undefined; freed by `free`, or by the host when the call has ended. */
  int32_t (*alloc)(void* self, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out);
  void (*free)(void* self, tn_tensor* tensor);
  /* c = alpha · a · b + beta · c, batched over leading axes; transposes are strides. y = alpha · x + beta · y, converting types. */
  int32_t (*gemm)(void* self, const tn_tensor* a, const tn_tensor* b, double alpha, double beta, tn_tensor* c);
  int32_t (*axpby)(void* self, double alpha, const tn_tensor* x, double beta, tn_tensor* y);
  /* A linear that the mixer keeps, with its adapters and bias, over all rows of the pass and once a pass. Backward: dx = gradient + beta · dx
   * (dx null: not wanted), and the gradients of what trains in it; x is what forward was given. */
  int32_t (*linear)(void* self, uint32_t role, const tn_tensor* x, tn_tensor* y);
  int32_t (*linear_backward)(void* self, uint32_t role, const tn_tensor* dy, const tn_tensor* x, double beta, tn_tensor* dx);
  /* A core kernel on q [rows, Hq, d], k, v [keys, Hkv, d or e] of any row strides. lse f32 [sequences, Hq, length], null where no
   * backward follows. In DECODE keys = past + rows, or as many as the mixer passes: the last row is the newest. */
  int32_t (*core)(void* self, uint32_t id, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v, tn_tensor* o, tn_tensor* lse);
  int32_t (*core_backward)(void* self, uint32_t id, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v, const tn_tensor* o,
                           const tn_tensor* lse, const tn_tensor* d_o, tn_tensor* dq, tn_tensor* dk, tn_tensor* dv);
  /* Within start() alone: out[end − begin, n] = rows of the model's own weight, kept or not, in out's type. */
  int32_t (*read_rows)(void* self, uint32_t role, int64_t begin, int64_t end, tn_tensor* out);
} tn_mixer_ops; /* fence mixer/1 */

typedef struct tn_mixer_api {
  uint32_t struct_size;
  uint32_t reserved;
  /* Which linears stay, which parameters come. [instance] */
  int32_t (*bind)(tn_attention* self, const tn_mixer_layer* layer, const tn_mixer_sink* sink);
  /* Starting values of all parameters, or, buffers_only != 0, of buffers alone, because a file holds the others. Weights may be read
   * where buffers_only = 0. [stream] */
  int32_t (*start)(tn_attention* self, const tn_mixer_ops* ops, const tn_rng* rng, uint32_t buffers_only);
  int32_t (*forward)(tn_attention* self, const tn_mixer_ops* ops, const tn_tensor* x, tn_tensor* y); /* [stream] */
  /* dy → dx (null: nothing below trains), and the gradients of params. x as in forward. [stream] */
  int32_t (*backward)(tn_attention* self, const tn_mixer_ops* ops, const tn_tensor* x, const tn_tensor* dy, tn_tensor* dx);
} tn_mixer_api; /* fence mixer/1 */

#endif
