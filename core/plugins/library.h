// Loading one plugin object into this process: shared object, negotiation, validation.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "core/plugins/schema.h"
#include "tenon/adapter.h"
#include "tenon/attention.h"
#include "tenon/optimizer.h"
#include "tenon/plugin.h"
#include "tenon/quantizer.h"

namespace tenon {

template <class Api>
inline constexpr uint32_t kKindOf = TN_KIND_UNDEFINED;
template <>
inline constexpr uint32_t kKindOf<tn_device_api> = TN_KIND_DEVICE;
template <>
inline constexpr uint32_t kKindOf<tn_optimizer_api> = TN_KIND_OPTIMIZER;
template <>
inline constexpr uint32_t kKindOf<tn_adapter_api> = TN_KIND_ADAPTER;
template <>
inline constexpr uint32_t kKindOf<tn_quantizer_api> = TN_KIND_QUANTIZER;
template <>
inline constexpr uint32_t kKindOf<tn_attention_api> = TN_KIND_ATTENTION;

// A validated plugin in this process, initialised for as long as a copy of this handle lives. Its code stays mapped
// until exit. Copies are cheap and may be used from any thread.
class LoadedPlugin {
 public:
  const tn_plugin& descriptor() const;
  std::string_view id() const { return descriptor().id; }
  uint32_t kind() const { return descriptor().kind; }
  const Schema& schema() const;
  const std::string& path() const;

  // The base table of the kind; throws TN_E_ARGUMENT where the plugin is of another kind. Slots that the ABI calls
  // optional may be null, and a table of an older minor may end before a slot: ask with TN_HAS.
  template <class Api>
  const Api& api() const {
    return *static_cast<const Api*>(table(kKindOf<Api>));
  }
  // A named extension of the technique, or null.
  template <class Table>
  const Table* extension(const char* id) const {
    return static_cast<const Table*>(extension_table(id));
  }

 private:
  friend LoadedPlugin load_library(const std::string& path);
  struct State;
  explicit LoadedPlugin(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  const void* table(uint32_t kind) const;
  const void* extension_table(const char* id) const;

  std::shared_ptr<const State> state_;
};

// Loads the object at `path` with local, immediate binding. It trusts the file: the catalog decides what may be loaded
// (Catalog::load). Every failure is one sentence that begins with the path: not a shared object, wrong architecture, a
// library that it needs is missing, no tn_plugin_entry, a refusal in the plugin's words, an unusable descriptor.
LoadedPlugin load_library(const std::string& path);

// What load_library checks after negotiation, for descriptors from elsewhere; `what` begins the error.
void check_descriptor(const std::string& what, const tn_plugin& plugin);

}  // namespace tenon
