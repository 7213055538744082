/* Lion (Chen et al. 2023, arXiv:2302.06675) as a Tenon plugin in C11, over the installed headers alone.
 *
 *   c = beta1 m + (1 - beta1) g;   w -= lr (sign(c) + weight_decay w);   m = beta2 m + (1 - beta2) g
 *
 * The instance knows each parameter's number of elements and nothing else: the momentum is a state that the host
 * allocates. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tenon/optimizer.h"

enum { SERIAL_BELOW = 16384 }; /* elements: below this, threads cost more than they save */

typedef struct parameter {
  uint32_t uid;
  int32_t ndim;
  int64_t shape[4], n;
} parameter;

struct tn_optimizer {
  const tn_host* host;
  double beta1, beta2, weight_decay;
  parameter* params; /* by uid */
  uint64_t n_params;
};

/* ---- refusals ---- */

static int32_t refuse(const tn_host* host, int32_t status, const char* format, ...) {
  char sentence[400];
  va_list values;
  va_start(values, format);
  vsnprintf(sentence, sizeof sentence, format, values);
  va_end(values);
  host->error(host, status, sentence);
  return status;
}

static int is_f32(tn_dtype d) {
  return d.code == TN_FLOAT && d.bits == 32 && d.lanes == 1;
}
static int is_bf16(tn_dtype d) {
  return d.code == TN_BFLOAT && d.bits == 16 && d.lanes == 1;
}

/* ---- create, bind ---- */

static int32_t create(const tn_host* host, const tn_hyper* const* hypers, uint64_t n, tn_optimizer** out) {
  tn_optimizer* self = calloc(1, sizeof *self);
  if (!self) return refuse(host, TN_E_MEMORY, "lion: out of host memory");
  self->host = host;
  for (uint64_t i = 0; i < n; ++i) {
    if (!strcmp(hypers[i]->name, "beta1")) self->beta1 = hypers[i]->f;
    if (!strcmp(hypers[i]->name, "beta2")) self->beta2 = hypers[i]->f;
    if (!strcmp(hypers[i]->name, "weight_decay")) self->weight_decay = hypers[i]->f;
  }
  *out = self;
  return TN_OK;
}

static void destroy(tn_optimizer* self) {
  free(self->params);
  free(self);
}

static int32_t supports(tn_optimizer* self, const tn_query* q) {
  if (q->device.type != TN_CPU)
    return refuse(self->host, TN_E_UNSUPPORTED, "lion: this object runs on the CPU; choose --device onednn");
  if (!is_f32(q->dtype) && !is_bf16(q->dtype))
    return refuse(self->host, TN_E_UNSUPPORTED,
                  "lion updates f32 and bf16 parameters; train an adapter over quantized weights");
  return TN_OK;
}

static int by_uid(const void* a, const void* b) {
  const uint32_t x = ((const parameter*)a)->uid, y = ((const parameter*)b)->uid;
  return (x > y) - (x < y);
}

static int32_t bind(tn_optimizer* self, const tn_param* const* params, uint64_t n) {
  parameter* list = calloc(n ? n : 1, sizeof *list);
  if (!list)
    return refuse(self->host, TN_E_MEMORY, "lion: out of host memory for %llu parameters", (unsigned long long)n);
  free(self->params);
  self->params = list, self->n_params = n;
  for (uint64_t i = 0; i < n; ++i) {
    const tn_param* p = params[i];
    parameter* mine = &list[i];
    const char* name = p->name && *p->name ? p->name : "a parameter";
    if (p->repr == TN_REPR_QUANTIZED || (!is_f32(p->dtype) && !is_bf16(p->dtype)))
      return refuse(self->host, TN_E_UNSUPPORTED, "lion: %s is not f32 or bf16; freeze it and train an adapter over it",
                    name);
    if (p->ndim < 0 || p->ndim > 4)
      return refuse(self->host, TN_E_ARGUMENT, "lion: %s has %d axes; at most 4 are possible", name, p->ndim);
    mine->uid = p->uid, mine->ndim = p->ndim, mine->n = 1;
    for (int32_t k = 0; k < p->ndim; ++k) {
      mine->shape[k] = p->shape[k];
      if (p->shape[k] < 0 || __builtin_mul_overflow(mine->n, p->shape[k], &mine->n) || mine->n > INT64_MAX / 8)
        return refuse(self->host, TN_E_ARGUMENT, "lion: %s has an impossible shape", name);
    }
  }
  qsort(list, n, sizeof *list, by_uid);
  for (uint64_t i = 1; i < n; ++i)
    if (list[i].uid == list[i - 1].uid)
      return refuse(self->host, TN_E_ARGUMENT, "lion: two parameters have the uid %u", list[i].uid);
  return TN_OK;
}

static const parameter* find(const tn_optimizer* self, uint32_t uid) {
  const parameter key = {uid, 0, {0}, 0};
  const parameter* found = self->n_params ? bsearch(&key, self->params, self->n_params, sizeof key, by_uid) : NULL;
  if (!found) refuse(self->host, TN_E_ARGUMENT, "lion: no parameter with the uid %u was bound", uid);
  return found;
}

/* ---- what it needs ---- */

static int32_t state_layout(tn_optimizer* self, uint32_t uid, const tn_state_sink* sink) {
  const parameter* p = find(self, uid);
  if (!p) return TN_E_ARGUMENT;
  tn_state_slot slot = {
      TN_SIZE_TO(tn_state_slot, name), TN_SLOT_VALUE, 0, p->ndim, {TN_FLOAT, 32, 1}, 0, {0}, "exp_avg"};
  memcpy(slot.shape, p->shape, sizeof slot.shape);
  return sink->declare(sink->self, &slot);
}

static int32_t estimate(tn_optimizer* self, const struct tn_device_api* api, tn_device* device, uint32_t uid,
                        tn_estimate* out) {
  (void)api, (void)device;
  const parameter* p = find(self, uid);
  if (!p) return TN_E_ARGUMENT;
  out->state_bytes = 4 * (uint64_t)p->n;
  out->saved_bytes = out->workspace_bytes = 0;
  out->flops = 8.0 * (double)p->n;
  out->bytes_moved = 20.0 * (double)p->n; /* f32: weight and momentum in and out, gradient in */
  return TN_OK;
}

/* ---- numbers ---- */

static float from_bf16(uint16_t h) {
  const uint32_t u = (uint32_t)h << 16;
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}

/* Adds `below` under the cut: half of the last place rounds to nearest, 16 random bits round stochastically. */
static uint16_t to_bf16(float x, uint32_t below) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  if ((u & 0x7f800000u) == 0x7f800000u) return (uint16_t)((u >> 16) | ((u & 0x7fffffu) ? 0x40u : 0u));
  return (uint16_t)((u + below) >> 16);
}

/* 16 random bits of element e: Philox4x32-10 keyed as tensor.h says, two halves a word, eight elements a block. */
static uint32_t noise16(tn_rng key, uint64_t e) {
  uint32_t c[4] = {(uint32_t)(e >> 3), (uint32_t)(e >> 35), key.uid, key.stream};
  uint32_t k0 = (uint32_t)key.seed, k1 = (uint32_t)(key.seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
    const uint32_t x = (uint32_t)(b >> 32) ^ c[1] ^ k0, z = (uint32_t)(a >> 32) ^ c[3] ^ k1;
    c[0] = x, c[1] = (uint32_t)b, c[2] = z, c[3] = (uint32_t)a;
  }
  return c[(e & 7) >> 1] >> (16 * (e & 1)) & 0xffffu;
}

/* ---- the update ---- */

typedef struct numbers {
  float beta1, rest1, beta2, rest2, lr, keep, grad_scale;
} numbers;

/* One weight: answers it updated, and updates the momentum. */
static inline float lion(numbers a, float w, float* m, float g) {
  g *= a.grad_scale;
  const float c = a.beta1 * *m + a.rest1 * g;
  *m = a.beta2 * *m + a.rest2 * g;
  return a.keep * w - a.lr * (float)((c > 0) - (c < 0));
}

static const char* at(const tn_tensor* t) {
  return (const char*)t->data + t->byte_offset;
}

static int32_t check(const tn_optimizer* self, const parameter* p, const tn_tensor* t, const char* what,
                     int allow_bf16) {
  int64_t n = 1, expected = 1;
  int dense = t->ndim <= 4;
  for (int32_t k = t->ndim - 1; k >= 0 && dense; --k) {
    dense = t->shape[k] <= 1 || p->n == 0 || t->strides[k] == expected;
    n *= t->shape[k], expected *= t->shape[k];
  }
  if (!dense || n != p->n)
    return refuse(self->host, TN_E_ARGUMENT, "lion: %s is not the dense tensor that was bound", what);
  if (!is_f32(t->dtype) && !(allow_bf16 && is_bf16(t->dtype)))
    return refuse(self->host, TN_E_UNSUPPORTED, "lion: %s has a dtype that it cannot be in", what);
  return TN_OK;
}

static int32_t update(const tn_optimizer* self, const tn_item* item) {
  const parameter* p = find(self, item->uid);
  if (!p) return TN_E_ARGUMENT;
  if (!item->grad) return TN_OK;
  if (item->n_states != 1)
    return refuse(self->host, TN_E_ARGUMENT, "lion: %u states were passed where 1 belongs", item->n_states);
  int32_t status = check(self, p, item->param, "the parameter", 1);
  if (status == TN_OK) status = check(self, p, item->grad, "the gradient", 1);
  if (status == TN_OK) status = check(self, p, item->states[0], "exp_avg", 0);
  if (status == TN_OK && item->master) status = check(self, p, item->master, "the master", 0);
  if (status != TN_OK) return status;

  const numbers a = {(float)self->beta1,     (float)(1 - self->beta1),
                     (float)self->beta2,     (float)(1 - self->beta2),
                     (float)item->lr,        (float)(1 - item->lr * self->weight_decay * item->decay_scale),
                     (float)item->grad_scale};
  float* m = (float*)at(item->states[0]);
  float* master = item->master ? (float*)at(item->master) : NULL;
  const int wide = is_f32(item->param->dtype), wide_grad = is_f32(item->grad->dtype);
  const int random = (item->flags & TN_ITEM_STOCHASTIC_ROUNDING) != 0 && !master && !wide;
  float* w = (float*)at(item->param);
  uint16_t* h = (uint16_t*)at(item->param);
  const float* g = (const float*)at(item->grad);
  const uint16_t* gh = (const uint16_t*)at(item->grad);
  if (wide && wide_grad && !master) { /* the common case is a plain loop that vectorizes */
#pragma omp parallel for simd schedule(static) if (p->n >= SERIAL_BELOW)
    for (int64_t i = 0; i < p->n; ++i) w[i] = lion(a, w[i], &m[i], g[i]);
    return TN_OK;
  }
#pragma omp parallel for schedule(static) if (p->n >= SERIAL_BELOW)
  for (int64_t i = 0; i < p->n; ++i) {
    const float before = master ? master[i] : wide ? w[i] : from_bf16(h[i]);
    const float now = lion(a, before, &m[i], wide_grad ? g[i] : from_bf16(gh[i]));
    if (master) master[i] = now;
    if (wide) {
      w[i] = now;
    } else {
      uint32_t bits;
      memcpy(&bits, &now, sizeof bits);
      h[i] = to_bf16(now,
                     random ? noise16(item->rng, (uint64_t)i) : 0x7fffu + (bits >> 16 & 1)); /* nearest: ties to even */
    }
  }
  return TN_OK;
}

static int32_t apply(tn_optimizer* self, const tn_exec* exec, const tn_item* const* items, uint64_t n) {
  (void)exec;
  for (uint64_t i = 0; i < n; ++i) {
    const int32_t status = update(self, items[i]);
    if (status < 0) return status;
  }
  return TN_OK;
}

/* ---- the descriptor ---- */

static const tn_hyper_info kBeta1 = {sizeof(tn_hyper_info),
                                     TN_TYPE_FLOAT,
                                     "beta1",
                                     "0.9",
                                     0,
                                     1,
                                     TN_RANGE_OPEN_MAX,
                                     0,
                                     NULL,
                                     NULL,
                                     "how much of the momentum is in the step"},
                           kBeta2 = {sizeof(tn_hyper_info),
                                     TN_TYPE_FLOAT,
                                     "beta2",
                                     "0.99",
                                     0,
                                     1,
                                     TN_RANGE_OPEN_MAX,
                                     0,
                                     NULL,
                                     NULL,
                                     "how much of the momentum is kept"},
                           kDecay = {sizeof(tn_hyper_info),
                                     TN_TYPE_FLOAT,
                                     "weight_decay",
                                     "0",
                                     0,
                                     INFINITY,
                                     TN_RANGE_OPEN_MAX,
                                     0,
                                     NULL,
                                     "1/lr",
                                     "decoupled: the weight shrinks by lr * this"};
static const tn_hyper_info* const kHypers[] = {&kBeta1, &kBeta2, &kDecay};

static const tn_optimizer_api kApi = {
    .struct_size = TN_SIZE_TO(tn_optimizer_api, load),
    .caps = TN_OPTIMIZER_ONE_AT_A_TIME | TN_OPTIMIZER_ROWWISE | TN_OPTIMIZER_ELEMENTWISE,
    .create = create,
    .destroy = destroy,
    .supports = supports,
    .bind = bind,
    .state_layout = state_layout,
    .estimate = estimate,
    .apply = apply};

static int32_t init(const tn_host* host) {
  return (void)host, TN_OK;
}
static void deinit(void) {}
static const void* get_extension(const char* id) {
  return (void)id, NULL;
}

static const tn_plugin kPlugin = {.struct_size = TN_SIZE_TO(tn_plugin, get_extension),
                                  .kind = TN_KIND_OPTIMIZER,
                                  .abi_major = 0,
                                  .abi_minor = 9,
                                  .id = "com.example.lion",
                                  .version = "1.0.0",
                                  .backend = "onednn",
                                  .hypers = kHypers,
                                  .n_hypers = 3,
                                  .init = init,
                                  .deinit = deinit,
                                  .api = &kApi,
                                  .get_extension = get_extension};

TN_EXPORT int32_t tn_plugin_entry(uint32_t major, uint32_t minor, const tn_host* host, const tn_plugin** out);
int32_t tn_plugin_entry(uint32_t major, uint32_t minor, const tn_host* host, const tn_plugin** out) {
  if (major != kPlugin.abi_major || minor < kPlugin.abi_minor)
    return refuse(host, TN_E_VERSION,
                  "com.example.lion speaks ABI %u.%u but the host offers %u.%u; install a matching version",
                  kPlugin.abi_major, kPlugin.abi_minor, major, minor);
  *out = &kPlugin;
  return TN_OK;
}
