/* Tenon ABI 0.9: what a plugin is.
 *
 * A plugin is one shared object that exports exactly one symbol, tn_plugin_entry. The host calls it first, before anything else:
 * negotiation. The plugin answers with a descriptor of what it speaks, or refuses in words. Nothing runs in static constructors;
 * no exception, signal, exit or print crosses this line; CPU threads come from OpenMP only. */
#ifndef TENON_PLUGIN_H
#define TENON_PLUGIN_H

#include "tenon/host.h"

enum { TN_KIND_UNDEFINED = 0, TN_KIND_DEVICE = 1, TN_KIND_OPTIMIZER = 2, TN_KIND_ADAPTER = 3, TN_KIND_QUANTIZER = 4, TN_KIND_ATTENTION = 5 };

enum { TN_TYPE_UNDEFINED = 0, TN_TYPE_INT = 1, TN_TYPE_FLOAT = 2, TN_TYPE_BOOL = 3, TN_TYPE_STRING = 4, TN_TYPE_CHOICE = 5 };
enum { TN_RANGE_OPEN_MIN = 1, TN_RANGE_OPEN_MAX = 2 }; /* the bound itself is not a legal value */

/* One hyper-parameter. Names are the reference implementation's. The host parses, validates against this and fills in defaults. */
typedef struct tn_hyper_info {
  uint32_t struct_size;
  uint32_t type;             /* TN_TYPE_* */
  const char* name;
  const char* default_value; /* as a user would write it */
  double min, max;           /* numbers: legal range; ±INFINITY = open-ended */
  uint32_t flags;            /* TN_RANGE_* */
  uint32_t reserved;
  const char* choices; /* TN_TYPE_CHOICE: "std|reverse_std|left"; else null */
  const char* unit;    /* "1/step", "elements"; null = none */
  const char* doc;     /* one line */
} tn_hyper_info;       /* fence 0.9 */

/* One validated value. create() receives every parameter of the schema, in the schema's order. */
typedef struct tn_hyper {
  uint32_t struct_size;
  uint32_t type; /* as declared; CHOICE and STRING are in s, BOOL in i */
  const char* name;
  int64_t i;
  double f;
  const char* s;
} tn_hyper; /* fence 0.9 */

typedef struct tn_plugin {
  uint32_t struct_size;
  uint32_t kind;                 /* TN_KIND_* */
  uint32_t abi_major, abi_minor; /* what the plugin will speak: same major as offered, minor <= offered */
  const char* id;                /* "galore"; vendors: "com.example.lion" */
  const char* version;           /* semantic version of the plugin itself */
  const char* backend;           /* "onednn", "cuda", "hip"; a portable plugin: "any" */
  const tn_hyper_info* const* hypers;
  uint64_t n_hypers;

  /* Counted by the plugin: the first init and the last deinit do the work; a host may pair them several times. [any-thread] */
  int32_t (*init)(const tn_host* host);
  void (*deinit)(void);

  /* The base table of the kind: tn_device_api, tn_optimizer_api, tn_adapter_api, tn_quantizer_api or tn_attention_api. */
  const void* api;

  /* A table of a named extension of this technique, or null. [any-thread] */
  const void* (*get_extension)(const char* id);
} tn_plugin; /* fence 0.9 */

#if defined(__GNUC__)
#define TN_EXPORT __attribute__((visibility("default")))
#else
#define TN_EXPORT
#endif

/* The one exported symbol. Compatible means: same major, offered minor >= needed minor; never equality. On success *out points to a
 * constant descriptor that lives as long as the library is mapped (libraries stay mapped until exit). A refusal returns
 * TN_E_VERSION, TN_E_DEVICE or TN_E_UNSUPPORTED after host->error. This signature never changes. [any-thread] */
typedef int32_t (*tn_plugin_entry_fn)(uint32_t host_major, uint32_t host_minor, const tn_host* host, const tn_plugin** out);
#define TN_PLUGIN_ENTRY_NAME "tn_plugin_entry"

#endif
