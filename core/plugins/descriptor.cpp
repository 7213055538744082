// Which slots each kind of plugin must fill.
#include <cstring>
#include <span>

#include "core/error.h"
#include "core/files/bytes.h"
#include "core/plugins/kinds.h"
#include "core/plugins/library.h"

namespace tenon {
namespace {

struct Slot {
  const char* name;
  size_t offset;
};

#define TENON_SLOT(table, field) \
  { #field, offsetof(table, field) }
constexpr Slot kDevice[] = {
    TENON_SLOT(tn_device_api, count),         TENON_SLOT(tn_device_api, open),
    TENON_SLOT(tn_device_api, close),         TENON_SLOT(tn_device_api, info),
    TENON_SLOT(tn_device_api, alloc),         TENON_SLOT(tn_device_api, free),
    TENON_SLOT(tn_device_api, copy),          TENON_SLOT(tn_device_api, fill),
    TENON_SLOT(tn_device_api, stream_create), TENON_SLOT(tn_device_api, stream_destroy),
    TENON_SLOT(tn_device_api, stream_wait),   TENON_SLOT(tn_device_api, event_create),
    TENON_SLOT(tn_device_api, event_destroy), TENON_SLOT(tn_device_api, event_record),
    TENON_SLOT(tn_device_api, event_seconds), TENON_SLOT(tn_device_api, stream_wait_event),
    TENON_SLOT(tn_device_api, gemm),          TENON_SLOT(tn_device_api, gemm_workspace),
};
constexpr Slot kOptimizer[] = {
    TENON_SLOT(tn_optimizer_api, create),       TENON_SLOT(tn_optimizer_api, destroy),
    TENON_SLOT(tn_optimizer_api, supports),     TENON_SLOT(tn_optimizer_api, bind),
    TENON_SLOT(tn_optimizer_api, state_layout), TENON_SLOT(tn_optimizer_api, estimate),
    TENON_SLOT(tn_optimizer_api, apply),
};
constexpr Slot kAdapter[] = {
    TENON_SLOT(tn_adapter_api, create),  TENON_SLOT(tn_adapter_api, destroy),  TENON_SLOT(tn_adapter_api, supports),
    TENON_SLOT(tn_adapter_api, bind),    TENON_SLOT(tn_adapter_api, estimate), TENON_SLOT(tn_adapter_api, init_param),
    TENON_SLOT(tn_adapter_api, forward), TENON_SLOT(tn_adapter_api, backward), TENON_SLOT(tn_adapter_api, write_config),
};
constexpr Slot kQuantizer[] = {
    TENON_SLOT(tn_quantizer_api, create),   TENON_SLOT(tn_quantizer_api, destroy),
    TENON_SLOT(tn_quantizer_api, supports), TENON_SLOT(tn_quantizer_api, plan),
    TENON_SLOT(tn_quantizer_api, estimate), TENON_SLOT(tn_quantizer_api, encode),
    TENON_SLOT(tn_quantizer_api, decode),
};
constexpr Slot kAttention[] = {
    TENON_SLOT(tn_attention_api, create), TENON_SLOT(tn_attention_api, destroy), TENON_SLOT(tn_attention_api, supports),
    TENON_SLOT(tn_attention_api, plan),   TENON_SLOT(tn_attention_api, forward), TENON_SLOT(tn_attention_api, backward),
};
#undef TENON_SLOT

std::span<const Slot> required_slots(uint32_t kind) {
  switch (kind) {
    case TN_KIND_DEVICE:
      return kDevice;
    case TN_KIND_OPTIMIZER:
      return kOptimizer;
    case TN_KIND_ADAPTER:
      return kAdapter;
    case TN_KIND_QUANTIZER:
      return kQuantizer;
    case TN_KIND_ATTENTION:
      return kAttention;
    default:
      return {};
  }
}

// The first words of a table, alike in every kind: struct_size, then caps, sites or placement.
struct TableHead {
  uint32_t struct_size, word;
};

}  // namespace

void check_descriptor(const std::string& what, const tn_plugin& plugin) {
  const auto refuse = [&](int32_t status, const std::string& why) { throw Error(status, what + ": " + why); };
  if (plugin.struct_size < TN_SIZE_TO(tn_plugin, get_extension)) {
    refuse(TN_E_FORMAT, "its descriptor states a size of " + std::to_string(plugin.struct_size) +
                            " bytes, fewer than the " + std::to_string(TN_SIZE_TO(tn_plugin, get_extension)) +
                            " of ABI " + abi_text() + "; build it against the released headers");
  }
  if (plugin.abi_major != TN_ABI_MAJOR || plugin.abi_minor > TN_ABI_MINOR) {
    refuse(TN_E_VERSION, "it answers ABI " + abi_text(plugin.abi_major, plugin.abi_minor) + " but was offered " +
                             abi_text() + "; install a version of the plugin for this Tenon");
  }
  if (!plugin.id || !valid_id(plugin.id))
    refuse(TN_E_FORMAT, "its id " + quote_name(plugin.id ? plugin.id : "") + " is not valid");
  if (!plugin.version || !valid_version(plugin.version)) {
    refuse(TN_E_FORMAT,
           "its version " + quote_name(plugin.version ? plugin.version : "") + " is not of the form 1.2.3");
  }
  if (!plugin.backend || !valid_id(plugin.backend)) refuse(TN_E_FORMAT, "its descriptor names no backend");
  const std::span<const Slot> slots = required_slots(plugin.kind);
  if (slots.empty()) refuse(TN_E_FORMAT, "its kind " + std::to_string(plugin.kind) + " is unknown to ABI " + abi_text());
  if (!plugin.api) refuse(TN_E_FORMAT, "its table of functions is null");
  const auto* const table = static_cast<const unsigned char*>(plugin.api);
  const auto* const head = static_cast<const TableHead*>(plugin.api);
  for (const Slot& slot : slots) {
    void* function = nullptr;
    if (head->struct_size >= slot.offset + sizeof function)
      std::memcpy(&function, table + slot.offset, sizeof function);
    if (!function) {
      refuse(TN_E_FORMAT, "the required function '" + std::string(slot.name) + "' of this " +
                              std::string(kind_name(plugin.kind)) + " is missing");
    }
  }
  if (plugin.kind == TN_KIND_QUANTIZER && head->word == 0)
    refuse(TN_E_FORMAT, "it serves no site (tn_quantizer_api.sites is 0)");
  if (plugin.kind == TN_KIND_ATTENTION && head->word != TN_PLACEMENT_CORE && head->word != TN_PLACEMENT_SUBLAYER) {
    refuse(TN_E_FORMAT, "its placement " + std::to_string(head->word) + " is unknown to ABI " + abi_text());
  }
  if (plugin.kind == TN_KIND_OPTIMIZER) {
    const auto* const api = static_cast<const tn_optimizer_api*>(plugin.api);
    const bool save = TN_HAS(api, tn_optimizer_api, save) && api->save;
    const bool load = TN_HAS(api, tn_optimizer_api, load) && api->load;
    if (save != load) refuse(TN_E_FORMAT, "of 'save' and 'load' it has one and lacks the other");
  }
}

}  // namespace tenon
