/* Tenon ABI 0.9: quantizers: codecs that hold a tensor as named components.
 *
 * The host plans the components (sizes before bytes), allocates them, encodes once and decodes ranges as often as it likes. A codec
 * without a fused product still works everywhere: the host decodes a panel and multiplies.
 * 0 is coded so that it decodes to 0. Only a format of others without an exact zero (a block with a minimum, a grid that passes 0 by)
 * may bring a weight of 0 back as the nearest value that it has; such a format refuses every target that is not TN_SITE_WEIGHT. */
#ifndef TENON_QUANTIZER_H
#define TENON_QUANTIZER_H

#include "tenon/device.h"
#include "tenon/plugin.h"

typedef struct tn_quantizer tn_quantizer;

enum { /* where a codec is used; bits */
  TN_SITE_WEIGHT = 1,
  TN_SITE_OPTIMIZER_STATE = 2,
  TN_SITE_ACTIVATION = 4,
  TN_SITE_KV_CACHE = 8,
  TN_SITE_DELTA = 16
};

/* The logical tensor. */
typedef struct tn_target {
  uint32_t struct_size;
  uint32_t site; /* one TN_SITE_* */
  uint32_t role; /* TN_ROLE_* */
  uint32_t uid;
  int32_t block;
  int32_t ndim;
  tn_dtype dtype; /* logical element type */
  uint32_t reserved;
  int64_t shape[4]; /* row-major */
  const char* name;
} tn_target; /* fence 0.9 */

enum { TN_COMPONENT_TRAINABLE = 1, TN_COMPONENT_SEGMENTED = 2 /* segments.h */ };
typedef struct tn_component {
  uint32_t struct_size;
  uint32_t code_bits; /* bits per logical element of packed codes; 0: plain values */
  uint32_t flags;     /* TN_COMPONENT_* */
  int32_t ndim;
  tn_dtype dtype;
  uint32_t reserved;
  int64_t shape[4];
  const char* name; /* "codes", "absmax", …: key in checkpoints */
} tn_component;     /* fence 0.9 */

typedef struct tn_component_sink {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  int32_t (*declare)(void* self, const tn_component* component);
} tn_component_sink; /* fence 0.9 */

enum { TN_QUANTIZER_OP_UNDEFINED = 0, TN_QUANTIZER_ENCODE = 1, TN_QUANTIZER_DECODE = 2, TN_QUANTIZER_LINEAR = 3, TN_QUANTIZER_LINEAR_BACKWARD = 4 };

typedef struct tn_quantizer_api {
  uint32_t struct_size;
  uint32_t sites; /* TN_SITE_* served */

  int32_t (*create)(const tn_host* host, const tn_hyper* const* hypers, uint64_t n_hypers, tn_quantizer** out);     /* [any-thread] */
  void (*destroy)(tn_quantizer* self);
  int32_t (*supports)(tn_quantizer* self, const tn_query* query);                                                   /* [any-thread] */
  /* The components of this target, in the order in which they are passed ever after. Names and sizes depend on nothing else. */
  int32_t (*plan)(tn_quantizer* self, const tn_target* target, const tn_component_sink* sink);                      /* [any-thread] */
  /* Cost of one operation (TN_QUANTIZER_*) over `rows` activation rows (linear) or elements (encode, decode). TN_E_UNSUPPORTED for a
   * linear: no fused product pays for so many rows; the host decodes and multiplies. */
  int32_t (*estimate)(tn_quantizer* self, const tn_device_api* api, tn_device* device, const tn_target* target, uint32_t op, int64_t rows,
                      tn_estimate* out);                                                                            /* [any-thread] */

  /* Codes the whole target from src (f32, bf16 or f16, contiguous). NaN or Inf: TN_E_NUMERIC. */
  int32_t (*encode)(tn_quantizer* self, const tn_exec* exec, const tn_target* target, const tn_tensor* src, tn_tensor* const* components,
                    const tn_rng* rng);                                                                             /* [stream] */
  /* dst = elements [begin, end) of the flattened target; dst is f32, bf16 or f16, contiguous. Any range is legal. */
  int32_t (*decode)(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* components, int64_t begin,
                    int64_t end, tn_tensor* dst);                                                                   /* [stream] */

  /* Fused products for a [m, n] weight W: y[T, m] = alpha · x W^T + beta · y and dx[T, n] = alpha · dy W + beta · dx. Null = decode and multiply. */
  int32_t (*linear)(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* components, const tn_tensor* x,
                    double alpha, double beta, tn_tensor* y);                                                       /* [stream] */
  int32_t (*linear_backward)(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* components,
                             const tn_tensor* dy, double alpha, double beta, tn_tensor* dx);                        /* [stream] */
} tn_quantizer_api; /* fence 0.9 */

/* Extension org.tenon.layout/1: conversion to and from an external file layout ("bitsandbytes", …) for checkpoints that other tools
 * read. Tensors are in host memory, named by a suffix to the weight's key (".absmax", ".quant_state.bitsandbytes__nf4"; "" = the weight), or,
 * where a layout has other tensors in the weight's place, by "../NAME": "../qweight" of layers.0.up.weight is layers.0.up.qweight. */
#define TN_EXT_LAYOUT "org.tenon.layout/1"

typedef struct tn_layout {
  uint32_t struct_size;
  uint32_t reserved;
  const char* const* names; /* layouts spoken, null-terminated */
  /* Hands each external tensor to `put`, which copies it. */
  int32_t (*to_external)(tn_quantizer* self, const char* layout, const tn_target* target, tn_tensor* const* components, void* context,
                         int32_t (*put)(void* context, const char* suffix, const tn_tensor* tensor));               /* [instance] */
  /* Fills components from external tensors; `get` answers null for a suffix that the file does not have. */
  int32_t (*from_external)(tn_quantizer* self, const char* layout, const tn_target* target, void* context,
                           const tn_tensor* (*get)(void* context, const char* suffix), tn_tensor* const* components); /* [instance] */
  /* The JSON object that such a model has as "quantization_config" in its config.json. */
  int32_t (*write_config)(tn_quantizer* self, const char* layout, const tn_sink* sink);                             /* [instance] */
  /* Hyper-parameters ("quant_type=nf4,double_quant=true") of the instance that reads a model with this quantization_config (JSON text).
   * TN_E_UNSUPPORTED, with the reason: none does. */
  int32_t (*read_config)(const tn_host* host, const char* layout, const char* quantization_config, const tn_sink* hypers); /* [any-thread] */
} tn_layout; /* fence layout/1 */

#endif
