/* libtenon 0.9: the host side in C, for bindings and for programs that use single techniques.
 *
 * A context knows what is installed; a session is an opened device with a stream and accounted memory; a technique is an instance of a
 * plugin on a session. Functions answer a status of status.h; tn_last_error explains a negative one. Texts are UTF-8. Answers that are
 * lists or records are JSON texts, which the caller frees with tn_free_string.
 *
 * Threads: a context, a session with its techniques, and everything made from them serve one call at a time; different sessions run in
 * parallel. What was made from an object must be freed before it. Freeing null does nothing. */
#ifndef TENON_TENON_H
#define TENON_TENON_H

#include "tenon/adapter.h"
#include "tenon/attention.h"
#include "tenon/optimizer.h"
#include "tenon/plugin.h"
#include "tenon/quantizer.h"

#if defined(__GNUC__)
#define TN_API __attribute__((visibility("default")))
#else
#define TN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_context tn_context;
typedef struct tn_session tn_session;
typedef struct tn_technique tn_technique;
typedef struct tn_coded tn_coded;

/* ---- library ---- */

/* "0.9.0". [any-thread] */
TN_API const char* tn_version(void);
/* The ABI offered to plugins. [any-thread] */
TN_API void tn_abi_version(uint32_t* major, uint32_t* minor);
/* "TN_E_MEMORY" and its default message; unknown codes answer "TN_?". [any-thread] */
TN_API const char* tn_status_name(int32_t status);
TN_API const char* tn_status_message(int32_t status);
/* Why the last call on this thread that failed did so: one sentence, valid until the next call on this thread. "" = nothing failed yet. */
TN_API const char* tn_last_error(void);
TN_API void tn_free_string(char* text);
/* Where plugins' log lines go; null = nowhere. Called from any thread, one call at a time. */
TN_API void tn_set_log(void (*log)(void* self, int32_t level, const char* sentence), void* self);

/* ---- what is installed ---- */

/* stores: folders in order of precedence, the first of which is installed into; n = 0: the user's store ($TENON_HOME, …), then the
 * one that came with this library. */
TN_API int32_t tn_context_open(const char* const* stores, uint64_t n, tn_context** out);
TN_API void tn_context_close(tn_context* context);

/* [{"id", "kind", "version", "name", "summary", "backends", "store"}]; kind: "optimizer", …, or null for all. */
TN_API int32_t tn_plugin_list(tn_context* context, const char* kind, char** json);
/* The manifest of an installed plugin, with "store" and "folder". */
TN_API int32_t tn_plugin_info(tn_context* context, const char* id, char** json);
/* {"id", "version", "replaced", "changed", "notes"} */
TN_API int32_t tn_plugin_install(tn_context* context, const char* folder, char** json);
TN_API int32_t tn_plugin_remove(tn_context* context, const char* id);
/* {"plugins": n, "problems": [{"id", "problem"}]} over all stores */
TN_API int32_t tn_plugin_verify(tn_context* context, char** json);
/* {"plugins": n, "problems": ["…"]} of the first store */
TN_API int32_t tn_plugin_rescan(tn_context* context, char** json);

/* Whether techniques mix: kinds[i] (TN_KIND_*) and specs[i] ("galore:rank=128"), run tags beyond the usual ones ("device:cuda",
 * "run:accumulate"). {"possible": bool, "reasons": [{"plugin", "sentence"}], "techniques": [canonical specs]} */
TN_API int32_t tn_check(tn_context* context, const uint32_t* kinds, const char* const* specs, uint64_t n, const char* const* run_tags,
                        uint64_t n_tags, char** json);

/* ---- sessions and memory ---- */

/* device: "auto", "onednn", "cuda", "hip", "cuda:1". memory_limit in bytes, 0 = none. */
TN_API int32_t tn_session_open(tn_context* context, const char* device, uint64_t memory_limit, tn_session** out);
TN_API void tn_session_close(tn_session* session);
/* {"backend", "name", "arch", "runtime", "total_bytes", "free_bytes", "live_bytes", "peak_bytes", "categories": {name: {"live", "peak"}},
 * "passed_over": ["why each other device was not taken"]} */
TN_API int32_t tn_session_info(tn_session* session, char** json);
/* The tables for direct calls: api, device and stream are set, the workspace is empty. Valid until the session closes. */
TN_API int32_t tn_session_exec(tn_session* session, tn_exec* out);
/* Blocks until all work of the session is done. */
TN_API int32_t tn_session_wait(tn_session* session);

enum { /* what a tensor's memory is counted under */
  TN_MEMORY_UNDEFINED = 0,
  TN_MEMORY_WEIGHTS = 1,
  TN_MEMORY_GRADIENTS = 2,
  TN_MEMORY_OPTIMIZER_STATE = 3,
  TN_MEMORY_ADAPTER = 4,
  TN_MEMORY_ACTIVATIONS = 5,
  TN_MEMORY_WORKSPACE = 6,
  TN_MEMORY_CODEC = 7
};
/* A dense row-major tensor of zeros on the session's device. Its layout is DLPack's DLTensor. */
TN_API int32_t tn_tensor_alloc(tn_session* session, uint32_t category, const tn_dtype* dtype, int32_t ndim, const int64_t* shape,
                               tn_tensor** out);
TN_API void tn_tensor_free(tn_session* session, tn_tensor* tensor);
/* Copies between host memory and a tensor of this session; n_bytes is the whole tensor. Done when the call returns. */
TN_API int32_t tn_tensor_write(tn_session* session, tn_tensor* tensor, const void* bytes, uint64_t n_bytes);
TN_API int32_t tn_tensor_read(tn_session* session, const tn_tensor* tensor, void* bytes, uint64_t n_bytes);

/* ---- techniques ---- */

/* An instance from a spec. Attention needs its layer: use tn_attention_create. */
TN_API int32_t tn_technique_create(tn_session* session, uint32_t kind, const char* spec, tn_technique** out);
TN_API int32_t tn_attention_create(tn_session* session, const char* spec, const tn_attention_config* config, tn_technique** out);
TN_API void tn_technique_destroy(tn_technique* technique);
/* The canonical spec, with every value. */
TN_API int32_t tn_technique_spec(tn_technique* technique, char** spec);
/* The plugin's descriptor, and the instance to pass to the functions of its table. Borrowed. */
TN_API const tn_plugin* tn_technique_plugin(tn_technique* technique);
TN_API void* tn_technique_instance(tn_technique* technique);

/* ---- driving an optimizer ---- */

/* Once, with all parameters; allocates the states, as zeros. Parameter i of later calls is params[i]. Refuses what the optimizer does
 * not support, with its reason. */
TN_API int32_t tn_optimizer_bind(tn_technique* optimizer, const tn_param* const* params, uint64_t n);

typedef struct tn_update {
  uint32_t struct_size;
  uint32_t reserved;
  int64_t total_steps; /* 0: unknown */
  int64_t tokens;      /* seen before this step */
  uint64_t seed;       /* of the run */
  double lr;
  double grad_scale;   /* multiplies every gradient; 1 */
} tn_update;           /* fence 0.9 */

/* One step over the bound parameters: params[i] is updated in place from grads[i]; null = no gradient in this step. Tensors are the
 * caller's, on the session's device, dense row-major. */
TN_API int32_t tn_optimizer_step(tn_technique* optimizer, const tn_update* update, tn_tensor* const* params, tn_tensor* const* grads);
/* Steps done, and the bytes of all states. */
TN_API int64_t tn_optimizer_steps(tn_technique* optimizer);
TN_API uint64_t tn_optimizer_state_bytes(tn_technique* optimizer);
/* All states as one blob, which names plugin, version and layout; loading another optimizer's blob is refused in words. */
TN_API int32_t tn_optimizer_save(tn_technique* optimizer, const tn_sink* sink);
TN_API int32_t tn_optimizer_load(tn_technique* optimizer, const void* bytes, uint64_t n_bytes);

/* ---- quantizing ---- */

/* Codes a tensor (f32, bf16 or f16, dense, on the session's device); the components are counted as codec memory. The target's struct is
 * copied, its name included. */
TN_API int32_t tn_quantizer_encode(tn_technique* quantizer, const tn_target* target, const tn_tensor* src, uint64_t seed, tn_coded** out);
/* dst = elements [begin, end) of the flattened tensor. */
TN_API int32_t tn_quantizer_decode(tn_technique* quantizer, tn_coded* coded, int64_t begin, int64_t end, tn_tensor* dst);
TN_API void tn_coded_free(tn_coded* coded);
TN_API uint64_t tn_coded_bytes(const tn_coded* coded);
/* Component i, or TN_E_NOT_FOUND past the last. Borrowed. */
TN_API int32_t tn_coded_component(tn_coded* coded, uint64_t i, const tn_component** info, tn_tensor** tensor);

/* ---- attention ---- */

/* o = attention(q, k, v) with a causal mask over positions 0…T−1 (window > 0: only the last `window` keys). Layout [B, T, H, d] in one
 * dtype; lse [B, Hq, Tq] f32 or null. */
TN_API int32_t tn_attention_forward(tn_technique* attention, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v, int64_t window,
                                    tn_tensor* o, tn_tensor* lse);
/* dq, dk, dv of the same call from d_o, the gradient of its o. o and lse are what forward wrote; dq, dk and dv are overwritten. */
TN_API int32_t tn_attention_backward(tn_technique* attention, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v, int64_t window,
                                     const tn_tensor* o, const tn_tensor* lse, const tn_tensor* d_o, tn_tensor* dq, tn_tensor* dk, tn_tensor* dv);

#ifdef __cplusplus
}
#endif

#endif
