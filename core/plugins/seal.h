// Completing the manifest that an author wrote by hand.
#pragma once

#include <string>

#include "core/plugins/manifest.h"

namespace tenon {

// Reads `folder`/manifest.json, fills in what can be read from the objects (digests, architectures, version, ABI,
// hyper-parameters, capability tags), and writes it back. Objects that the author did not list are those named
// ID.BACKEND[.LEVEL].so in the folder, where LEVEL is a CPU level (x86-64-v3), best level first. Each object that can
// run here is tried in a child process. Every failure is one sentence.
Manifest seal(const std::string& folder);

// Whether an object's own words agree with a manifest; throws where they do not. `path` begins the error.
void check_agreement(const std::string& path, const Manifest& manifest, const ObjectFile& object,
                     const struct ObjectDescription& said);

}  // namespace tenon
