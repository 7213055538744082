// What is in a package: the files of a sealed plugin folder, and the text over which it is signed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/plugins/manifest.h"

namespace tenon {

inline constexpr const char* kSignatureFile = "signature.json";
inline constexpr uint64_t kMostSignatureBytes = 64 << 10, kMostTextBytes = 1 << 20,
                          kMostObjectBytes = uint64_t{4} << 30;
inline constexpr size_t kMostFiles = 256, kMostNameBytes = 100;

struct PackagedFile {
  std::string name, sha256;
  uint64_t bytes = 0;
};

// Whether a file of this name may accompany the manifest and the objects: README.md, LICENSE, NOTICE, …
bool is_document(std::string_view name);

// The names of the plugin's files, sorted: manifest.json, every object, and the documents that are in the folder. The
// signature is not among them.
std::vector<std::string> packaged_names(const std::string& folder, const Manifest& manifest);

// The same with sizes and digests. Throws where one is missing, is not a plain file or is too large.
std::vector<PackagedFile> packaged_files(const std::string& folder, const Manifest& manifest);

// The most bytes that a file of this name may have.
uint64_t most_bytes(std::string_view name);

// The text that is signed.
std::string signed_text(const std::vector<PackagedFile>& files);

}  // namespace tenon
