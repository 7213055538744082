// The verbs of `tenon plugin`. Those that deal with keys and packages are in plugin_packages.cpp.
#pragma once

#include "hosts/cli/arguments.h"

namespace tenon::cli {

int plugin_keygen(const po::variables_map& values);
int plugin_pack(const po::variables_map& values);
int plugin_seal(const po::variables_map& values);
int plugin_sign(const po::variables_map& values);
int plugin_trust(const po::variables_map& values);
// Of the packages that are named; without any, `verify` looks at the stores.
int verify_packages(const std::vector<std::string>& packages, bool json);

}  // namespace tenon::cli
