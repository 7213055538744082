/* Tenon ABI 0.9: what the host offers to every plugin.
 *
 * Thread tags, on every function of the ABI:
 *   [any-thread]  callable from any thread at any time between init and deinit
 *   [instance]    one call at a time per instance; different instances may run in parallel
 *   [stream]      like [instance]; the work is ordered on tn_exec.stream and may still run when the call returns */
#ifndef TENON_HOST_H
#define TENON_HOST_H

#include <stddef.h>

#include "tenon/status.h"
#include "tenon/tensor.h"

#define TN_ABI_MAJOR 0
#define TN_ABI_MINOR 9

/* True when a table or struct that states `struct_size` bytes holds `field`. */
#define TN_HAS(ptr, type, field) ((ptr)->struct_size >= (uint32_t)(offsetof(type, field) + sizeof(((type*)0)->field)))
/* Size of a struct up to and including `field`: padding at the tail never counts. */
#define TN_SIZE_TO(type, field) ((uint32_t)(offsetof(type, field) + sizeof(((type*)0)->field)))

enum { TN_LOG_DEBUG = 1, TN_LOG_INFO = 2, TN_LOG_WARNING = 3 };

typedef struct tn_host {
  uint32_t struct_size;
  uint32_t reserved;

  /* Slot 0, for ever at this offset: reports why the call that is about to return a negative status failed. `sentence` is UTF-8,
   * copied by the host, kept per thread until the next report. Usable before and during negotiation. [any-thread] */
  void (*error)(const struct tn_host* host, int32_t status, const char* sentence);

  /* One line for the user's log; the host decides whether it is shown. [any-thread] */
  void (*log)(const struct tn_host* host, int32_t level, const char* sentence);

  /* A table of a named host extension ("org.tenon.name/1"), or null. Lives as long as the host. [any-thread] */
  const void* (*get_extension)(const struct tn_host* host, const char* id);
} tn_host; /* fence 0.9 */

/* Where bytes that leave a plugin go: state blobs, configuration texts. May be called several times; the pieces are joined. */
typedef struct tn_sink {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  int32_t (*write)(void* self, const void* bytes, uint64_t n_bytes);
} tn_sink; /* fence 0.9 */

struct tn_device;
struct tn_device_api;
struct tn_stream;

/* Where a call runs. The workspace is what the matching `workspace` query asked for, aligned to TN_ALIGNMENT, contents undefined,
 * valid until the work queued by the call is done. Techniques allocate nothing else on a device. */
typedef struct tn_exec {
  uint32_t struct_size;
  uint32_t flags; /* TN_EXEC_* */
  const struct tn_device_api* api;
  struct tn_device* device;
  struct tn_stream* stream;
  void* workspace;
  uint64_t workspace_bytes;
} tn_exec; /* fence 0.9 */

enum { TN_EXEC_DETERMINISTIC = 1 };

/* The question behind every `supports`: a concrete device, dtype and shape. A technique that answers TN_E_UNSUPPORTED has reported
 * the reason through tn_host.error. */
typedef struct tn_query {
  uint32_t struct_size;
  uint32_t role; /* TN_ROLE_* of the weight, or 0 */
  tn_device_id device;
  tn_dtype dtype;   /* storage */
  tn_dtype compute; /* arithmetic and activations */
  int32_t ndim;
  uint32_t reserved;
  int64_t shape[4];
} tn_query; /* fence 0.9 */

/* The answer to every `estimate`: what the work costs, without doing or allocating any of it. */
typedef struct tn_estimate {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t state_bytes;     /* kept between steps: states, components, parameters */
  uint64_t saved_bytes;     /* kept from forward to backward */
  uint64_t workspace_bytes; /* during the call */
  double flops;
  double bytes_moved; /* lower bound of memory traffic */
} tn_estimate;        /* fence 0.9 */

#endif
