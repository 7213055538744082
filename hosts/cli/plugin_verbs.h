// The verbs of `tenon plugin`, by file: plugin_list.cpp, plugin_store.cpp and, for keys and packages, plugin_packages.cpp.
#pragma once

#include "hosts/cli/arguments.h"

namespace tenon::cli {

inline constexpr const char* kPluginKinds = "device, optimizer, adapter, quantizer or attention";

int plugin_list(const po::variables_map& values);
int plugin_info(const po::variables_map& values);

int plugin_install(const po::variables_map& values);
int plugin_remove(const po::variables_map& values);
int plugin_verify(const po::variables_map& values);
int plugin_rescan(const po::variables_map& values);

int plugin_keygen(const po::variables_map& values);
int plugin_pack(const po::variables_map& values);
int plugin_seal(const po::variables_map& values);
int plugin_sign(const po::variables_map& values);
int plugin_trust(const po::variables_map& values);
// Of the packages that are named; without any, plugin_verify looks at the stores.
int verify_packages(const std::vector<std::string>& packages, bool json);

}  // namespace tenon::cli
