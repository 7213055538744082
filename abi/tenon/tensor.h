/* Tenon ABI 0.9: borrowed tensors and random keys.
 *
 * tn_tensor is binary compatible with DLPack's DLTensor (a test checks every offset against the packaged dlpack.h), under names of
 * our own so that both headers can be included together. A tensor that crosses the ABI is *borrowed* for the duration of the call:
 * the callee neither frees nor keeps it. Strides are always present, in elements. Quantized data crosses as uint8 plus a descriptor
 * (tn_component), never as a private dtype code. */
#ifndef TENON_TENSOR_H
#define TENON_TENSOR_H

#include <stdint.h>

/* dtype codes, equal to DLPack's */
enum { TN_INT = 0, TN_UINT = 1, TN_FLOAT = 2, TN_OPAQUE = 3, TN_BFLOAT = 4, TN_BOOL = 6 };

typedef struct tn_dtype { /* = DLDataType */
  uint8_t code;
  uint8_t bits;
  uint16_t lanes; /* always 1 here */
} tn_dtype;

/* device types, equal to DLPack's; the oneDNN device is a CPU */
enum { TN_CPU = 1, TN_CUDA = 2, TN_CUDA_HOST = 3, TN_ROCM = 10, TN_ROCM_HOST = 11 };

typedef struct tn_device_id { /* = DLDevice */
  int32_t type;
  int32_t index;
} tn_device_id;

typedef struct tn_tensor { /* = DLTensor */
  void* data;
  tn_device_id device;
  int32_t ndim;
  tn_dtype dtype;
  int64_t* shape;
  int64_t* strides; /* elements; never null when ndim > 0 */
  uint64_t byte_offset;
} tn_tensor;

/* Memory handed to a technique is aligned to TN_ALIGNMENT bytes; a view into it may be aligned to its element only. */
#define TN_ALIGNMENT 64

/* Key of the counter-based generator (Philox4x32-10): key = seed, counter = (block low, block high, uid, stream). Equal keys give
 * equal numbers on every backend, after a restart and on replay; nothing else may be a source of randomness. Fixed for ever. */
typedef struct tn_rng {
  uint64_t seed;
  uint32_t uid;    /* of the tensor */
  uint32_t stream; /* separates uses (dropout, rounding, initialisation, …) and steps */
} tn_rng;

/* What a parameter is for. Logic goes by role; names are for people. */
enum {
  TN_ROLE_UNDEFINED = 0,
  TN_ROLE_EMBEDDING = 1,
  TN_ROLE_HEAD = 2,
  TN_ROLE_NORM = 3,
  TN_ROLE_BIAS = 4,
  TN_ROLE_Q = 5,
  TN_ROLE_K = 6,
  TN_ROLE_V = 7,
  TN_ROLE_O = 8,
  TN_ROLE_GATE = 9,
  TN_ROLE_UP = 10,
  TN_ROLE_DOWN = 11,
  TN_ROLE_ADAPTER = 12,
  TN_ROLE_SCALE = 13, /* scales of a quantized weight */
  TN_ROLE_OTHER = 14
};

#endif
