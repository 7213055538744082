// Packages: a sealed plugin folder as one file. The format is in PACKAGES.md.
#pragma once

#include <optional>
#include <string>

#include "core/packages/keys.h"
#include "core/plugins/manifest.h"

namespace tenon {

// Packs the sealed plugin in `folder`; its objects must match their digests. With a key it is signed; without one a
// signature.json in the folder goes along. Equal folders give equal bytes. Answers the package's path: `output`, or
// ID-VERSION.tenon in the current folder where that is "".
std::string pack(const std::string& folder, const std::string& output, const SecretKey* key);

// Signs the package anew, in place.
void sign_package(const std::string& package, const SecretKey& key);

// What is in a package, all of it checked: files, digests, signature.
struct PackageContents {
  Manifest manifest;
  std::optional<PublicKey> signer;
};
// Unpacks into `folder`, which is empty and which nobody else writes. The package is a stranger's: every failure is one
// sentence that begins with its path, and then nothing in the folder may be used.
PackageContents unpack(const std::string& package, const std::string& folder);

// A sentence about a file in `folder`, where a package was unpacked for the moment, as one about the package.
std::string about_package(std::string sentence, const std::string& folder, const std::string& package);

// The same without keeping the files.
PackageContents inspect(const std::string& package);

}  // namespace tenon
