#include "core/packages/contents.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <iterator>

#include "core/error.h"
#include "core/files/posix_io.h"
#include "core/plugins/sha256.h"

namespace tenon {

namespace fs = std::filesystem;

bool is_document(std::string_view name) {
  constexpr std::string_view kDocuments[] = {"CHANGELOG.md", "LICENSE", "LICENSE.md", "NOTICE", "README.md"};
  return std::find(std::begin(kDocuments), std::end(kDocuments), name) != std::end(kDocuments);
}

uint64_t most_bytes(std::string_view name) {
  if (name == kSignatureFile) return kMostSignatureBytes;
  return name == "manifest.json" || is_document(name) ? kMostTextBytes : kMostObjectBytes;
}

std::vector<std::string> packaged_names(const std::string& folder, const Manifest& manifest) {
  std::vector<std::string> names = {"manifest.json"};
  for (const ObjectFile& object : manifest.objects) names.push_back(object.file);
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error))
    if (is_document(entry.path().filename().string())) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  if (std::adjacent_find(names.begin(), names.end()) != names.end() ||
      std::find(names.begin(), names.end(), kSignatureFile) != names.end())
    throw Error(TN_E_FORMAT, folder + ": an object has the name of another file of the package; name it ID.BACKEND.so");
  if (names.size() >= kMostFiles)
    throw Error(TN_E_FORMAT, folder + ": the plugin has " + std::to_string(names.size()) +
                                 " files, and a package holds fewer than " + std::to_string(kMostFiles));
  return names;
}

std::vector<PackagedFile> packaged_files(const std::string& folder, const Manifest& manifest) {
  std::vector<PackagedFile> files;
  for (const std::string& name : packaged_names(folder, manifest)) {
    const std::string path = fs::path(folder) / name;
    struct stat status;
    if (name.size() > kMostNameBytes)
      throw Error(TN_E_FORMAT, path + ": in a package a name has at most " + std::to_string(kMostNameBytes) +
                                   " bytes; use a shorter one");
    if (lstat(path.c_str(), &status) != 0) throw_io_error(path, "look at the file", errno);
    if (!S_ISREG(status.st_mode))
      throw Error(TN_E_FORMAT, path + ": this is not a plain file, as every file of a plugin must be");
    if (static_cast<uint64_t>(status.st_size) > most_bytes(name))
      throw Error(TN_E_FORMAT, path + ": the file has " + std::to_string(status.st_size) +
                                   " bytes, and a package takes at most " + std::to_string(most_bytes(name)));
    files.push_back({name, sha256_of_file(path), static_cast<uint64_t>(status.st_size)});
  }
  return files;
}

std::string signed_text(const std::vector<PackagedFile>& files) {
  std::string text = "tenon package 1\n";
  for (const PackagedFile& file : files)
    text += file.sha256 + ' ' + std::to_string(file.bytes) + ' ' + file.name + '\n';
  return text;
}

}  // namespace tenon
