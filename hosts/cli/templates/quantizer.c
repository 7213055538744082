/* @NAME@: symmetric 8-bit integers with one scale a block. Replace encode_block, decode, plan and estimate by your
 * codec's. The instance knows its parameters and nothing else: components are memory of the host. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tenon/quantizer.h"

struct tn_quantizer {
  const tn_host* host;
  int64_t block;
};

static int32_t refuse(const tn_host* host, int32_t status, const char* format, ...) {
  char sentence[400];
  va_list values;
  va_start(values, format);
  vsnprintf(sentence, sizeof sentence, format, values);
  va_end(values);
  host->error(host, status, sentence);
  return status;
}

/* ---- floats of three sizes ---- */

static int is_f32(tn_dtype d) {
  return d.code == TN_FLOAT && d.bits == 32;
}
static int is_f16(tn_dtype d) {
  return d.code == TN_FLOAT && d.bits == 16;
}
static int is_bf16(tn_dtype d) {
  return d.code == TN_BFLOAT && d.bits == 16;
}
static int is_float(tn_dtype d) {
  return d.lanes == 1 && (is_f32(d) || is_f16(d) || is_bf16(d));
}

static float from_bits(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}
static uint32_t to_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}
static float load(tn_dtype d, const void* p, int64_t i) {
  if (is_f32(d)) return ((const float*)p)[i];
  const uint32_t h = ((const uint16_t*)p)[i];
  if (is_bf16(d)) return from_bits(h << 16);
  const uint32_t sign = (h & 0x8000u) << 16, e = h >> 10 & 31, m = h & 0x3ffu;
  if (e == 0) return from_bits(sign | to_bits(ldexpf((float)m, -24)));
  return from_bits(sign | (e == 31 ? 0x7f800000u : (e + 112) << 23) | m << 13);
}
/* To nearest, ties to even; x is finite. */
static void store(tn_dtype d, void* p, int64_t i, float x) {
  const uint32_t u = to_bits(x), sign = u >> 16 & 0x8000u;
  if (is_f32(d)) {
    ((float*)p)[i] = x;
  } else if (is_bf16(d)) {
    ((uint16_t*)p)[i] = (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
  } else if (fabsf(x) < ldexpf(1, -14)) {
    ((uint16_t*)p)[i] = (uint16_t)(sign | (uint32_t)lrintf(ldexpf(fabsf(x), 24)));
  } else {
    const uint32_t v = (u & 0x7fffffffu) + 0xfffu + (u >> 13 & 1) - (112u << 23);
    ((uint16_t*)p)[i] = (uint16_t)(sign | (v >= 0x0f800000u ? 0x7c00u : v >> 13));
  }
}

/* ---- what is passed ---- */

/* Elements of the target, or -1 for an impossible shape. */
static int64_t elements(const tn_target* t) {
  int64_t n = 1;
  if (t->ndim < 0 || t->ndim > 4) return -1;
  for (int32_t i = 0; i < t->ndim; ++i)
    if (t->shape[i] < 0 || __builtin_mul_overflow(n, t->shape[i], &n) || n > INT64_MAX / 8) return -1;
  return n;
}
static int64_t blocks_of(const tn_quantizer* self, int64_t n) {
  return (n + self->block - 1) / self->block;
}
static const char* name_of(const tn_target* t) {
  return t->name && *t->name ? t->name : "the tensor";
}

/* The data of a dense tensor of n elements, or null. */
static void* dense(const tn_tensor* t, int64_t n) {
  int64_t expected = 1;
  if (t->ndim > 4) return NULL;
  for (int32_t k = t->ndim - 1; k >= 0; --k) {
    if (t->shape[k] > 1 && n > 0 && t->strides[k] != expected) return NULL;
    expected *= t->shape[k];
  }
  static char nothing;
  return expected != n ? NULL : n == 0 ? &nothing : (char*)t->data + t->byte_offset;
}

static int32_t bad_target(const tn_quantizer* self, const tn_target* t) {
  return refuse(self->host, TN_E_ARGUMENT, "@NAME@: %s has an impossible shape", name_of(t));
}

/* ---- the table ---- */

static int32_t create(const tn_host* host, const tn_hyper* const* hypers, uint64_t n, tn_quantizer** out) {
  tn_quantizer* self = calloc(1, sizeof *self);
  if (!self) return refuse(host, TN_E_MEMORY, "@NAME@: out of host memory");
  self->host = host;
  for (uint64_t i = 0; i < n; ++i)
    if (!strcmp(hypers[i]->name, "blocksize")) self->block = hypers[i]->i;
  *out = self;
  return TN_OK;
}
static void destroy(tn_quantizer* self) {
  free(self);
}

static int32_t supports(tn_quantizer* self, const tn_query* q) {
  if (q->device.type != TN_CPU)
    return refuse(self->host, TN_E_UNSUPPORTED, "@NAME@: this object runs on the CPU; choose --device onednn");
  if (!is_float(q->dtype)) return refuse(self->host, TN_E_UNSUPPORTED, "@NAME@ codes f32, bf16 and f16");
  return TN_OK;
}

static int32_t plan(tn_quantizer* self, const tn_target* target, const tn_component_sink* sink) {
  const int64_t n = elements(target);
  if (n < 0) return bad_target(self, target);
  const tn_component codes = {TN_SIZE_TO(tn_component, name), 8, 0, 1, {TN_INT, 8, 1}, 0, {n, 0, 0, 0}, "codes"};
  const tn_component scales = {TN_SIZE_TO(tn_component, name), 0,       0, 1, {TN_FLOAT, 32, 1}, 0,
                               {blocks_of(self, n), 0, 0, 0},  "scales"};
  const int32_t status = sink->declare(sink->self, &codes);
  return status < 0 ? status : sink->declare(sink->self, &scales);
}

static int32_t estimate(tn_quantizer* self, const tn_device_api* api, tn_device* device, const tn_target* target,
                        uint32_t op, int64_t rows, tn_estimate* out) {
  (void)api, (void)device;
  if (op != TN_QUANTIZER_ENCODE && op != TN_QUANTIZER_DECODE)
    return refuse(self->host, TN_E_UNSUPPORTED, "@NAME@ has no fused product; decode and multiply instead");
  const int64_t n = elements(target);
  if (n < 0) return bad_target(self, target);
  out->state_bytes = (uint64_t)(n + 4 * blocks_of(self, n));
  out->saved_bytes = out->workspace_bytes = 0;
  out->flops = 2.0 * (double)rows;
  out->bytes_moved = (1 + target->dtype.bits / 8.0) * (double)rows;
  return TN_OK;
}

/* 0 where the block holds NaN or Inf. */
static int encode_block(tn_dtype dtype, const void* x, int64_t begin, int64_t end, int8_t* codes, float* scale) {
  float top = 0;
  for (int64_t i = begin; i < end; ++i) {
    const float a = fabsf(load(dtype, x, i));
    if (!isfinite(a)) return 0;
    top = a > top ? a : top;
  }
  *scale = top / 127;
  for (int64_t i = begin; i < end; ++i) codes[i] = *scale > 0 ? (int8_t)lrintf(load(dtype, x, i) / *scale) : 0;
  return 1;
}

static int32_t encode(tn_quantizer* self, const tn_exec* exec, const tn_target* target, const tn_tensor* src,
                      tn_tensor* const* components, const tn_rng* rng) {
  (void)exec, (void)rng;
  const int64_t n = elements(target), blocks = n < 0 ? 0 : blocks_of(self, n);
  if (n < 0) return bad_target(self, target);
  const void* x = dense(src, n);
  int8_t* codes = dense(components[0], n);
  float* scales = dense(components[1], blocks);
  if (!x || !codes || !scales || !is_float(src->dtype))
    return refuse(self->host, TN_E_ARGUMENT, "@NAME@: %s or its components are not the dense tensors that were planned",
                  name_of(target));
  int64_t bad = -1;
#pragma omp parallel for schedule(static) reduction(max : bad) if (n > 16384)
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = b * self->block, end = begin + self->block < n ? begin + self->block : n;
    if (!encode_block(src->dtype, x, begin, end, codes, &scales[b])) bad = b;
  }
  if (bad >= 0)
    return refuse(self->host, TN_E_NUMERIC,
                  "%s: NaN or Inf among the elements from %lld on; only finite weights can be quantized",
                  name_of(target), (long long)(bad * self->block));
  return TN_OK;
}

static int32_t decode(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* components,
                      int64_t begin, int64_t end, tn_tensor* dst) {
  (void)exec;
  const int64_t n = elements(target);
  if (n < 0) return bad_target(self, target);
  if (begin < 0 || begin > end || end > n)
    return refuse(self->host, TN_E_ARGUMENT, "%s: the range [%lld, %lld) is not within its %lld elements",
                  name_of(target), (long long)begin, (long long)end, (long long)n);
  const int8_t* codes = dense(components[0], n);
  const float* scales = dense(components[1], blocks_of(self, n));
  void* out = dense(dst, end - begin);
  if (!codes || !scales || !out || !is_float(dst->dtype))
    return refuse(self->host, TN_E_ARGUMENT,
                  "@NAME@: the destination or the components are not the dense tensors that were planned");
  const tn_dtype dtype = dst->dtype;
#pragma omp parallel for schedule(static) if (end - begin > 16384)
  for (int64_t i = begin; i < end; ++i) store(dtype, out, i - begin, scales[i / self->block] * codes[i]);
  return TN_OK;
}

/* ---- the descriptor ---- */

static const tn_hyper_info kBlockSize = {
    sizeof(tn_hyper_info),          TN_TYPE_INT, "blocksize", "64", 1, 65536, 0, 0, NULL, "elements",
    "elements that share one scale"};
static const tn_hyper_info* const kHypers[] = {&kBlockSize};

static const tn_quantizer_api kApi = {.struct_size = TN_SIZE_TO(tn_quantizer_api, linear_backward),
                                      .sites = TN_SITE_WEIGHT | TN_SITE_DELTA,
                                      .create = create,
                                      .destroy = destroy,
                                      .supports = supports,
                                      .plan = plan,
                                      .estimate = estimate,
                                      .encode = encode,
                                      .decode = decode};

static int32_t init(const tn_host* host) {
  return (void)host, TN_OK;
}
static void deinit(void) {}
static const void* get_extension(const char* id) {
  return (void)id, NULL;
}

static const tn_plugin kPlugin = {.struct_size = TN_SIZE_TO(tn_plugin, get_extension),
                                  .kind = TN_KIND_QUANTIZER,
                                  .abi_major = 0,
                                  .abi_minor = 9,
                                  .id = "@ID@",
                                  .version = "0.1.0",
                                  .backend = "onednn",
                                  .hypers = kHypers,
                                  .n_hypers = 1,
                                  .init = init,
                                  .deinit = deinit,
                                  .api = &kApi,
                                  .get_extension = get_extension};

TN_EXPORT int32_t tn_plugin_entry(uint32_t major, uint32_t minor, const tn_host* host, const tn_plugin** out);
int32_t tn_plugin_entry(uint32_t major, uint32_t minor, const tn_host* host, const tn_plugin** out) {
  if (major != kPlugin.abi_major || minor < kPlugin.abi_minor)
    return refuse(host, TN_E_VERSION, "@ID@ speaks ABI %u.%u but the host offers %u.%u; install a matching version",
                  kPlugin.abi_major, kPlugin.abi_minor, major, minor);
  *out = &kPlugin;
  return TN_OK;
}
