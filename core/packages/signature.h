// The signature of a plugin's folder, in its signature.json.
#pragma once

#include <optional>
#include <string>

#include "core/packages/keys.h"
#include "core/plugins/manifest.h"

namespace tenon {

// Writes signature.json over the files of the sealed plugin in `folder`, in place of one that is there.
void sign_folder(const std::string& folder, const Manifest& manifest, const SecretKey& key);

// The key that signed the folder, or null where it has no signature.json. Throws TN_E_TRUST where the signature does
// not fit the files, TN_E_FORMAT where it cannot be read.
std::optional<PublicKey> check_signature(const std::string& folder, const Manifest& manifest);

// "example (key id 0123…)".
std::string words(const PublicKey& key);

}  // namespace tenon
