/* Tenon ABI 0.9: extension org.tenon.region/1 of adapters: methods that run the stack of blocks themselves.
 *
 * A reversible network changes how the blocks are chained; a side network reads every block's output and owns blocks of its own; streams
 * run the stack several times. Such an adapter is one for a model. The host calls it instead of the loop over the blocks, final norm
 * included, and hands it the blocks as operators that it may call in any order, as often as it likes, with or without saving. Every
 * tensor belongs to the host and is counted there; the same calls are made once for the memory forecast, on tensors without memory.
 * The adapter takes no site in tn_adapter_api.bind (and answers TN_OK); its parameters it declares here. */
#ifndef TENON_REGION_H
#define TENON_REGION_H

#include "tenon/adapter.h"

#define TN_EXT_REGION "org.tenon.region/1"

/* The two halves of a block, residual included: x + attention(norm(x)) and x + mlp(norm(x)); WHOLE is one after the other. */
enum { TN_BLOCK_UNDEFINED = 0, TN_BLOCK_WHOLE = 1, TN_BLOCK_ATTENTION = 2, TN_BLOCK_MLP = 3 };

typedef struct tn_region_model {
  uint32_t struct_size;
  uint32_t n_blocks; /* ids 0 … n_blocks − 1 are the model's own, frozen unless adapters train in them */
  int64_t hidden, intermediate;
  uint32_t heads, kv_heads, head_dim;
  uint32_t reserved;
  int64_t vocab;
  /* For starting values that follow from several weights at once: out[end − begin, n] = rows of a frozen weight, in the dtype of out. slot 0 … 6:
   * q, k, v, o, gate, up, down of `block`; block −1: the embedding's table [vocab, hidden], whatever the slot. An adapter keeps self and read_rows from
   * bind on and calls it within init_param alone, when the weights are there. Refused in words: what another adapter holds, or a mixer does
   * without. [stream] */
  void* self;
  int32_t (*read_rows)(void* self, int32_t block, uint32_t slot, int64_t begin, int64_t end, tn_tensor* out);
} tn_region_model; /* fence region/1 */

/* A block of the model's kind that the adapter adds. Its parameters are the adapter's: nine, in the order input norm, post-attention norm,
 * q, k, v, o, gate, up, down, with ids that follow the last one declared; init_param is called for each with the same parameter of the model's
 * block `like` as its base, a gain as a weight of one row (null where like = −1). */
typedef struct tn_side_block {
  uint32_t struct_size;
  uint32_t reserved;
  int64_t hidden, intermediate;
  uint32_t heads, kv_heads, head_dim;
  int32_t like;
  const char* key; /* prefix of its tensors in the file: "base_model.model.side.3" */
} tn_side_block;   /* fence region/1 */

typedef struct tn_region_sink {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  int32_t (*param)(void* self, const tn_adapter_param* param); /* site = −1 */
  int32_t (*block)(void* self, const tn_side_block* block, uint32_t* id);
} tn_region_sink; /* fence region/1 */

/* PLAN: tensors have no memory; every function of the table is called as ever, nothing else touches them. DECODE: the rows continue a
 * sequence; blocks keep what they need of the rows before. */
enum { TN_REGION_PLAN = 1, TN_REGION_SAVE = 2, TN_REGION_DECODE = 4 };

typedef struct tn_region_ops {
  uint32_t struct_size;
  uint32_t flags; /* TN_REGION_* */
  void* self;
  const tn_exec* exec; /* for kernels of the adapter's own; no workspace: alloc one */
  const tn_param_view* const* params; /* by id */
  uint64_t n_params;
  int64_t rows, hidden;
  tn_dtype compute;

  /* A tensor of the pass, contents undefined; freed by `free`, or by the host when the pass has ended (after backward where SAVE). */
  int32_t (*alloc)(void* self, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out);
  void (*free)(void* self, tn_tensor* tensor);
  /* c = alpha · a · b + beta · c; transposes are strides. y = alpha · x + beta · y, converting types. */
  int32_t (*gemm)(void* self, const tn_tensor* a, const tn_tensor* b, double alpha, double beta, tn_tensor* c);
  int32_t (*axpby)(void* self, double alpha, const tn_tensor* x, double beta, tn_tensor* y);
  /* RMS norm with a gain [n]; gain null: the model's final norm. rstd f32 [rows], or null where no backward follows. Backward: dx = beta · dx +
   * gradient, dgain (f32, null: none) += gradient. */
  int32_t (*norm)(void* self, const tn_tensor* x, const tn_tensor* gain, tn_tensor* y, tn_tensor* rstd);
  int32_t (*norm_backward)(void* self, const tn_tensor* dy, const tn_tensor* x, const tn_tensor* gain, const tn_tensor* rstd, double beta,
                           tn_tensor* dx, tn_tensor* dgain);
  /* *y = a new tensor, part of block(x). token non-null: what backward needs is kept under *token, x itself included, which
   * must not change until the token is spent; null: nothing is. Repeating a call
   * repeats its numbers, dropout included. */
  int32_t (*block_forward)(void* self, uint32_t block, uint32_t part, const tn_tensor* x, tn_tensor** y, uint64_t* token);
  /* d: gradient of the output in, of the input out, in place; parameter gradients add up; the token is spent. */
  int32_t (*block_backward)(void* self, uint64_t token, tn_tensor* d);
  /* For what is random in training, where SAVE is set: the same in a forward and its backward, another one in every step and micro-batch. uid … uid +
   * 65535 are the adapter's own; elements are numbered by row of the pass · width + column. */
  tn_rng rng;
} tn_region_ops; /* fence region/1 */

typedef struct tn_region_api {
  uint32_t struct_size;
  uint32_t reserved;
  int32_t (*bind)(tn_adapter* self, const tn_region_model* model, const tn_region_sink* sink);                     /* [instance] */
  /* y[rows, hidden] = what the head reads, from the embedding's output x. Where SAVE is set, one backward or none follows. [stream] */
  int32_t (*forward)(tn_adapter* self, const tn_region_ops* ops, const tn_tensor* x, tn_tensor* y);
  /* dy → dx (null: nothing below trains), and the gradients of params. [stream] */
  int32_t (*backward)(tn_adapter* self, const tn_region_ops* ops, const tn_tensor* dy, tn_tensor* dx);
} tn_region_api; /* fence region/1 */

#endif
