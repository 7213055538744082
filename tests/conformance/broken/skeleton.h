// The sound adapter and attention that broken ones are made from are those of `tenon new-plugin`: class Method and
// class Kernel. Include this after TENON_SKELETON names the file; its own entry is left out.
#pragma once

#include "sdk/plugin.h"

#undef TENON_PLUGIN
#define TENON_PLUGIN(descriptor)
#include TENON_SKELETON

// The descriptor and the exported entry of a table.
#define TENON_EXHIBIT(kind, hypers, n, table)                                                       \
  namespace {                                                                                       \
  constexpr tn_plugin kExhibit = [] {                                                               \
    tn_plugin p = tenon::sdk::describe(kind, "exhibit", "1.0.0", hypers, &(table));                 \
    p.n_hypers = n;                                                                                 \
    return p;                                                                                       \
  }();                                                                                              \
  }                                                                                                 \
  extern "C" TN_EXPORT int32_t tn_plugin_entry(uint32_t major, uint32_t minor, const tn_host* host, \
                                               const tn_plugin** out) {                             \
    return tenon::sdk::enter(major, minor, host, kExhibit, out);                                    \
  }
