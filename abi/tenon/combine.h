/* Tenon ABI 0.9: extension org.tenon.combine/1 of adapters: several trained adapters become one.
 *
 * It works on the adapters' files alone, without a model: tensors are contiguous, in host memory, named as in adapter_model.safetensors;
 * those that go in are f32, bf16 or f16, those that come out f32. The result computes the weighted sum of what went in, exactly or as
 * nearly as the method says. */
#ifndef TENON_COMBINE_H
#define TENON_COMBINE_H

#include "tenon/adapter.h"

#define TN_EXT_COMBINE "org.tenon.combine/1"

/* One adapter that goes in. */
typedef struct tn_combine_source {
  uint32_t struct_size;
  uint32_t reserved;
  double weight;           /* may be negative */
  const char* config_json; /* its adapter_config.json */
  uint64_t n_tensors;
  const char* const* keys;
  const tn_tensor* const* tensors; /* by index of the key */
} tn_combine_source;               /* fence combine/1 */

typedef struct tn_combine {
  uint32_t struct_size;
  uint32_t reserved;
  const char* const* methods; /* names, null-terminated, in the words of the reference implementation */
  /* rank: of the result, for methods that cut it; 0: the largest that goes in. Hands each tensor of the result to `put`, which copies it,
   * and the result's adapter_config.json to `config`. */
  int32_t (*combine)(const tn_host* host, const char* method, int64_t rank, const tn_combine_source* const* sources, uint64_t n,
                     void* context, int32_t (*put)(void* context, const char* key, const tn_tensor* tensor), const tn_sink* config); /* [any-thread] */
} tn_combine; /* fence combine/1 */

#endif
