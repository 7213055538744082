/* Tenon ABI 0.9: extension org.tenon.edits/1 of quantizers that serve TN_SITE_MODEL: model edits (SliceGPT, Ashkboos et al. 2024).
 *
 * Such a plugin makes another model out of a model: other bases, widths, heads. It is never given the model's graph. It is told the
 * model's shape, answers with edits by value from the closed list below, and computes matrices, of the text that runs through the model
 * where it wants that. The host multiplies, records the new shape with the model's files, and from then on evaluates, trains and decodes the
 * result like any model, without the plugin. Nothing is coded: plan, encode and decode of such a plugin's tn_quantizer_api refuse.
 *
 * Places. A model of L blocks has 2L sub-layers, attention of block l = 2l, its MLP = 2l + 1, and 2L + 1 boundaries of the residual stream
 * around them: boundary b is what the norm of sub-layer b reads, boundary 2L what the final norm reads. Sub-layer s computes
 * x_(s+1) = R_s x_s + f(norm(x_s)); R_s, its residual map, is the identity until an edit changes it.
 *
 * Order. Edits happen one after the other as declared. The matrix of an edit is asked for just before its first edit; where it needs a
 * statistic of boundary b, the host first runs the text up to there, through everything edited so far. So boundaries of statistics do not
 * fall, and edits behind one (of what the text has passed already) are refused, but for those that produce the boundary where the text
 * stands: what waits there is then multiplied too. When the text moves on, and at the end, all widths must agree; the host refuses a plan
 * in which they do not before it computes anything. */
#ifndef TENON_EDITS_H
#define TENON_EDITS_H

#include "tenon/quantizer.h"

#define TN_EXT_EDITS "org.tenon.edits/1"

enum { TN_SITE_MODEL = 32 }; /* in tn_quantizer_api.sites, beside those of quantizer.h: no codec, the model itself is edited */

enum { TN_EDIT_MODEL_TIED = 1 }; /* the head is the embedding */
typedef struct tn_edit_model {
  uint32_t struct_size;
  uint32_t flags; /* TN_EDIT_MODEL_* */
  int64_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocab;
  double norm_eps;
} tn_edit_model; /* fence edits/1 */

/* Text that the plan's statistics want; it may get less where the text is short, and is told how much it got. */
typedef struct tn_edit_text {
  uint32_t struct_size;
  uint32_t reserved;
  int64_t sequences, length; /* tokens of each; sequences 0: no matrix needs any */
} tn_edit_text; /* fence edits/1 */

enum {
  TN_EDIT_STATISTIC_NONE = 0,
  TN_EDIT_STATISTIC_GRAM = 1,           /* f32 [w, w]: sum of x xᵀ over the tokens at a boundary of width w, before its norm */
  TN_EDIT_STATISTIC_NORMALIZED_GRAM = 2 /* the same of x / sqrt(mean(x²) + eps) */
};
typedef struct tn_edit_matrix {
  uint32_t struct_size;
  uint32_t id;        /* dense from 0 */
  uint32_t statistic; /* TN_EDIT_STATISTIC_* */
  int32_t boundary;   /* of the statistic; −1 where there is none */
  int64_t rows, columns;
} tn_edit_matrix; /* fence edits/1 */

/* A weight W[m, n] maps n inputs to m outputs; so does a residual map, and the embedding maps tokens to outputs (stored as [vocab, m]).
 * M is the edit's matrix. Multiplying what a sub-layer produces by Mᵀ and what the next one consumes by M puts the boundary between them into
 * the basis of M's columns, and slices it where M has fewer columns than rows. */
enum {
  TN_EDIT_UNDEFINED = 0,
  TN_EDIT_UNTIE = 1,      /* the head becomes a weight of its own; on a tied model before any edit of head or embedding */
  TN_EDIT_FOLD_NORM = 2,  /* the gain of the norm at boundary `place` is multiplied into the linears that read it, and becomes 1 */
  TN_EDIT_INPUT = 3,      /* W ← W M. Behind a norm only where its gain has been folded; all linears behind one norm alike */
  TN_EDIT_OUTPUT = 4,     /* W ← Mᵀ W, and the bias, where there is one */
  TN_EDIT_NORM_COUNT = 5  /* the norm at boundary `place` computes x / sqrt(sum(x²) / count + eps), whatever the width; after its inputs */
};
typedef struct tn_edit {
  uint32_t struct_size;
  uint32_t kind; /* TN_EDIT_*; a host that does not know one refuses the plugin */
  /* Of INPUT and OUTPUT: TN_ROLE_EMBEDDING (OUTPUT alone), TN_ROLE_HEAD (INPUT alone), TN_ROLE_Q … TN_ROLE_DOWN, or TN_ROLE_OTHER, a residual map. */
  uint32_t role;
  int32_t place; /* a block; of TN_ROLE_OTHER a sub-layer; of the norm's edits a boundary; −1 for head, embedding and UNTIE */
  uint32_t matrix; /* of INPUT and OUTPUT */
  uint32_t reserved;
  int64_t count; /* of NORM_COUNT */
} tn_edit;       /* fence edits/1 */

typedef struct tn_edit_sink {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  int32_t (*matrix)(void* self, const tn_edit_matrix* matrix); /* before the edits that use it */
  int32_t (*edit)(void* self, const tn_edit* edit);
} tn_edit_sink; /* fence edits/1 */

typedef struct tn_edit_ops {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  const tn_exec* exec;        /* with the workspace that estimate() asked for */
  const tn_tensor* statistic; /* null where none was asked for */
  int64_t tokens;             /* of the statistic */
  const tn_rng* rng;          /* a key of this matrix alone */
  /* out[end − begin, n] (f32, bf16 or f16) = rows of a weight as edited so far; role and place as in tn_edit. */
  int32_t (*read_rows)(void* self, uint32_t role, int32_t place, int64_t begin, int64_t end, tn_tensor* out);
} tn_edit_ops; /* fence edits/1 */

typedef struct tn_edits {
  uint32_t struct_size;
  uint32_t reserved;
  int32_t (*text)(tn_quantizer* self, tn_edit_text* out); /* [any-thread] */
  /* Depends on nothing but the instance and the model's shape, so that hosts know the new shape before any weight is read. A shape that
   * cannot be edited so: TN_E_UNSUPPORTED, with the reason. [any-thread] */
  int32_t (*plan)(tn_quantizer* self, const tn_edit_model* model, const tn_edit_sink* sink);
  int32_t (*estimate)(tn_quantizer* self, const tn_device_api* api, tn_device* device, const tn_edit_matrix* matrix, tn_estimate* out); /* [any-thread] */
  /* out f32 [rows, columns], contiguous, in the device's memory. NaN or Inf in the statistic: TN_E_NUMERIC. [stream] */
  int32_t (*matrix)(tn_quantizer* self, const tn_edit_ops* ops, const tn_edit_matrix* matrix, tn_tensor* out);
} tn_edits; /* fence edits/1 */

#endif
