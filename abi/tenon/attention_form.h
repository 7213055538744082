/* Tenon ABI 0.9: extension org.tenon.attention-form/1 of attention plugins: what a core kernel computes, stated pair by pair.
 *
 * A host that knows the form can evaluate the kernel densely (conformance does), draw its pattern, or run the layer with another kernel.
 * Without the extension a kernel is exact softmax attention under the call's mask. */
#ifndef TENON_ATTENTION_FORM_H
#define TENON_ATTENTION_FORM_H

#include "tenon/attention.h"

#define TN_EXT_ATTENTION_FORM "org.tenon.attention-form/1"

enum {
  TN_FORM_UNDEFINED = 0,
  TN_FORM_SOFTMAX = 1,   /* o_i = Σ_j softmax_j(scale · q_i·k_j) v_j over the visible j with factor 1; factors are 0 or 1 */
  TN_FORM_LINEAR = 2,    /* o_i = Σ_j factor · (q_i·k_j) v_j over the visible j; LSE 0 where a key is visible */
  TN_FORM_LINEAR_RMS = 3 /* the same, each row divided by sqrt(mean of its squares + epsilon), whose log is the LSE */
};

typedef struct tn_attention_form {
  uint32_t struct_size;
  uint32_t reserved;
  int32_t (*form)(tn_attention* self, uint32_t* form, double* epsilon);                                             /* [any-thread] */
  /* out[n] for one query head of this rank: the factors of the pairs of query position i with key positions j … j + n − 1, beyond the mask
   * of the call, from the kernel's own hyper-parameters. */
  int32_t (*factors)(tn_attention* self, uint32_t head, int64_t i, int64_t j, int64_t n, double* out);              /* [any-thread] */
} tn_attention_form; /* fence attention-form/1 */

#endif
