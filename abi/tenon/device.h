/* Tenon ABI 0.9: a device plugin: memory, copies, streams, events, matrix products.
 *
 * The transformer's own operators are the extension org.tenon.ops/1 (ops.h). All work is ordered on a stream with no hidden
 * synchronisation; on the CPU device calls are complete when they return and a stream is a formality. */
#ifndef TENON_DEVICE_H
#define TENON_DEVICE_H

#include "tenon/host.h"

typedef struct tn_device tn_device; /* one opened device */
typedef struct tn_stream tn_stream;
typedef struct tn_event tn_event;

typedef struct tn_device_info {
  uint32_t struct_size;
  uint32_t n_threads;      /* CPU: OpenMP threads used; GPU: multiprocessors */
  tn_device_id id;
  char name[128];          /* "AMD EPYC 9655", "NVIDIA H200" */
  char arch[64];           /* "x86-64-v4+bf16", "sm_90", "gfx942" */
  char runtime[128];       /* "oneDNN 2.6.3", "CUDA 13.0, driver 580.65" */
  uint64_t total_bytes, free_bytes;
  tn_dtype gemm_dtype;     /* the fastest of f32 and bf16 for matrix products here, measured once */
  uint16_t reserved[2];
  double gemm_flops;       /* FLOP/s measured in that type; 0 = not measured yet */
  double bytes_per_second; /* measured copy bandwidth (read + write); 0 = not measured yet */
} tn_device_info; /* fence 0.9 */

/* C = alpha · A · B + beta · C (+ bias per column), per batch. A is [batch…, m, k], B [batch…, k, n], C [batch…, m, n]; transposes are
 * strides. A and B are f32, bf16 or f16, in any combination, C f32 or bf16; products accumulate in f32. Where `exact` is set f32
 * operands are multiplied in f32 (no TF32, no bf16). */
enum { TN_GEMM_EXACT = 1 };
typedef struct tn_gemm {
  uint32_t struct_size;
  uint32_t flags; /* TN_GEMM_* */
  const tn_tensor *a, *b;
  tn_tensor* c;
  const tn_tensor* bias; /* [n] or null */
  double alpha, beta;
  const void* packed_b; /* B as `pack` left it, or null; then b describes shape and dtype and its data is not read */
} tn_gemm;              /* fence 0.9 */

enum { TN_COPY_UNDEFINED = 0, TN_COPY_TO_DEVICE = 1, TN_COPY_TO_HOST = 2, TN_COPY_WITHIN = 3 };

typedef struct tn_device_api {
  uint32_t struct_size;
  uint32_t reserved;

  /* How many devices are here, and what they are. Never fails for want of a driver: then *n = 0 and host->error says why. [any-thread] */
  int32_t (*count)(const tn_host* host, uint32_t* n);
  int32_t (*open)(const tn_host* host, uint32_t index, tn_device** out);
  void (*close)(tn_device* device);
  /* Capabilities, and what is free now. measure != 0: times copy and GEMM once if that has not been done. [any-thread] */
  int32_t (*info)(tn_device* device, uint32_t measure, tn_device_info* out);

  /* Memory, aligned to TN_ALIGNMENT. Only the host calls these: it counts every byte. n_bytes > 0. TN_E_MEMORY when there is no more. [any-thread] */
  int32_t (*alloc)(tn_device* device, uint64_t n_bytes, void** out);
  void (*free)(tn_device* device, void* memory);
  int32_t (*copy)(tn_device* device, tn_stream* stream, void* to, const void* from, uint64_t n_bytes, uint32_t direction);  /* [stream] */
  int32_t (*fill)(tn_device* device, tn_stream* stream, void* to, uint8_t byte, uint64_t n_bytes);                         /* [stream] */

  int32_t (*stream_create)(tn_device* device, tn_stream** out);                                                            /* [any-thread] */
  void (*stream_destroy)(tn_device* device, tn_stream* stream);
  int32_t (*stream_wait)(tn_device* device, tn_stream* stream); /* blocks the caller until the stream's work is done */

  int32_t (*event_create)(tn_device* device, tn_event** out);
  void (*event_destroy)(tn_device* device, tn_event* event);
  int32_t (*event_record)(tn_device* device, tn_event* event, tn_stream* stream);
  int32_t (*stream_wait_event)(tn_device* device, tn_stream* stream, tn_event* event);
  int32_t (*event_seconds)(tn_device* device, tn_event* begin, tn_event* end, double* seconds); /* waits for `end` */

  /* Workspace of one product. Shapes, dtypes, strides, flags, bias and packed_b decide it, and of alpha and beta whether each is 0, 1 or
   * another number, since a factor of 1 may spare a pass; other values of that kind, and data pointers, change nothing. [any-thread] */
  int32_t (*gemm_workspace)(tn_device* device, const tn_gemm* gemm, uint64_t* n_bytes);
  int32_t (*gemm)(tn_device* device, tn_stream* stream, const tn_gemm* gemm, void* workspace, uint64_t workspace_bytes);   /* [stream] */

  /* B of a frozen weight in the layout that the product likes best: how many bytes, and the packing itself into memory of the host.
   * *n_bytes = 0: packing gains nothing for these shapes. [any-thread] / [stream] */
  int32_t (*pack_bytes)(tn_device* device, const tn_gemm* gemm, uint64_t* n_bytes);
  int32_t (*pack)(tn_device* device, tn_stream* stream, const tn_gemm* gemm, void* packed_b);

  /* A table of a named extension of this device (org.tenon.ops/1), or null. [any-thread] */
  const void* (*get_extension)(const char* id);
} tn_device_api; /* fence 0.9 */

#endif
