// The kinds of plugins, and the names of kinds and versions in manifests, catalogs and messages.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tenon/host.h"
#include "tenon/plugin.h"

namespace tenon {

// "device", "optimizer", "adapter", "quantizer", "attention"; "?" for an unknown kind.
std::string_view kind_name(uint32_t kind) noexcept;
// TN_KIND_UNDEFINED for an unknown name.
uint32_t kind_from_name(std::string_view name) noexcept;

// Whether `id` can be a plugin's: letters a-z, digits, '.', '-' and '_', starting with a letter or digit, at most 100
// bytes. Such an id is safe as a folder's name.
bool valid_id(std::string_view id) noexcept;
// Whether `version` is of the form 1.2.3 or 1.2.3-tag, numbers below 10^9, at most 64 bytes.
bool valid_version(std::string_view version) noexcept;
// A text that sorts as versions do: 1.2.0 before 1.10.0, and 1.0.0-rc1 before 1.0.0. The version is valid.
std::string version_key(std::string_view version);
// "0.9": a version of the ABI, that of this host where none is given.
std::string abi_text(uint32_t major = TN_ABI_MAJOR, uint32_t minor = TN_ABI_MINOR);

}  // namespace tenon
