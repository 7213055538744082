#include "core/packages/package.h"

#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "core/error.h"
#include "core/files/atomic_file.h"
#include "core/files/bytes.h"
#include "core/files/posix_io.h"
#include "core/packages/archive.h"
#include "core/packages/contents.h"
#include "core/packages/signature.h"
#include "core/plugins/sha256.h"

namespace tenon {
namespace {

namespace fs = std::filesystem;

// A private folder in the system's temporary folder, gone at the end.
class Scratch {
 public:
  Scratch() {
    std::error_code error;
    path_ = fs::temp_directory_path(error) / "tenon-package-XXXXXX";
    if (!mkdtemp(path_.data())) {
      const int reason = errno;
      throw_io_error(std::exchange(path_, {}), "make a temporary folder", reason);
    }
  }
  ~Scratch() {
    std::error_code error;
    if (!path_.empty()) fs::remove_all(path_, error);
  }
  Scratch(const Scratch&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void check_digests(const std::string& where, const std::string& folder, const Manifest& manifest) {
  for (const ObjectFile& object : manifest.objects) {
    const std::string path = fs::path(folder) / object.file;
    std::error_code error;
    if (!fs::exists(path, error))
      throw Error(TN_E_NOT_FOUND,
                  where + ": the object " + object.file + " is in the manifest but is missing; get the plugin again");
    if (sha256_of_file(path) != object.sha256)
      throw Error(TN_E_TRUST, where + ": the SHA-256 of " + object.file +
                                  " differs from the manifest's; the object was altered or damaged, seal the folder or "
                                  "get the plugin again");
  }
}

// Nothing may be in a package that is neither signed nor looked at.
void check_names(const std::string& package, const std::string& folder, const Manifest& manifest) {
  const std::vector<std::string> known = packaged_names(folder, manifest);
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (name != kSignatureFile && std::find(known.begin(), known.end(), name) == known.end())
      throw Error(TN_E_FORMAT, package + ": it holds " + quote_name(name) +
                                   ", which is neither an object of its manifest nor a document");
  }
}

void write_package(const std::string& path, const std::string& folder, const Manifest& manifest) {
  std::vector<std::string> names = packaged_names(folder, manifest);
  std::error_code error;
  if (fs::exists(fs::path(folder) / kSignatureFile, error)) names.emplace_back(kSignatureFile);
  write_archive(path, folder, names);
}

}  // namespace

std::string pack(const std::string& folder, const std::string& output, const SecretKey* key) {
  const Manifest manifest = read_manifest(folder);
  check_digests(folder, folder, manifest);
  // A copy is packed, so that the author's folder stays as it is and what is signed is what is packed.
  const Scratch copy;
  std::error_code error;
  for (const PackagedFile& file : packaged_files(folder, manifest)) {
    fs::copy_file(fs::path(folder) / file.name, fs::path(copy.path()) / file.name, error);
    if (error) throw_io_error(fs::path(folder) / file.name, "copy the file", error.value());
  }
  write_file_atomically(fs::path(copy.path()) / "manifest.json", manifest_text(manifest));
  if (key) {
    sign_folder(copy.path(), manifest, *key);
  } else if (fs::exists(fs::path(folder) / kSignatureFile, error)) {
    fs::copy_file(fs::path(folder) / kSignatureFile, fs::path(copy.path()) / kSignatureFile, error);
    if (error) throw_io_error(fs::path(folder) / kSignatureFile, "copy the signature", error.value());
    (void)check_signature(copy.path(), manifest);
  }
  const std::string path = output.empty() ? manifest.id + '-' + manifest.version + ".tenon" : output;
  write_package(path, copy.path(), manifest);
  return path;
}

void sign_package(const std::string& package, const SecretKey& key) {
  const Scratch files;
  read_archive(package, files.path());
  std::error_code error;
  fs::remove(fs::path(files.path()) / kSignatureFile, error);  // a signature that does not fit is no reason not to sign
  const Manifest manifest = read_manifest(files.path());
  check_names(package, files.path(), manifest);
  check_digests(package, files.path(), manifest);
  sign_folder(files.path(), manifest, key);
  write_package(package, files.path(), manifest);
}

std::string about_package(std::string sentence, const std::string& folder, const std::string& package) {
  for (size_t at = 0; (at = sentence.find(folder, at)) != std::string::npos; at += package.size())
    sentence.replace(at, folder.size(), package);
  return sentence;
}

PackageContents unpack(const std::string& package, const std::string& folder) {
  read_archive(package, folder);
  try {
    PackageContents contents{read_manifest(folder), std::nullopt};
    check_names(package, folder, contents.manifest);
    check_digests(package, folder, contents.manifest);
    contents.signer = check_signature(folder, contents.manifest);
    return contents;
  } catch (const Error& e) {
    throw Error(e.code(), about_package(e.what(), folder, package));
  }
}

PackageContents inspect(const std::string& package) {
  const Scratch files;
  return unpack(package, files.path());
}

}  // namespace tenon
