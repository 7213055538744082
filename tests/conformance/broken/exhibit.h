// The plugin of an exhibit that offers one extension and has nothing to set.
#pragma once

#include <string_view>

#include "sdk/plugin.h"

// api: the table of the kind; id, interface: the extension and its table.
#define TENON_EXTENDED_EXHIBIT(kind, api, id, interface)                                                                      \
  namespace {                                                                                                                 \
  constexpr auto kTable = api;                                                                                                \
  constexpr auto kExtension = interface;                                                                                      \
  const void* extension(const char* asked) { return std::string_view(asked) == id ? &kExtension : nullptr; }                  \
  constexpr tn_hyper_info kNothing = tenon::sdk::flag("unused", "false", "an exhibit has nothing to set");                    \
  constexpr const tn_hyper_info* kHypers[] = {&kNothing};                                                                     \
  constexpr tn_plugin kExhibit = tenon::sdk::describe(kind, "exhibit", "1.0.0", kHypers, &kTable, extension);                 \
  }                                                                                                                           \
  TENON_PLUGIN(kExhibit)
