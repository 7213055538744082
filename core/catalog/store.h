// A store: a folder of installed plugins and the catalog of them. This is the writing side; Catalog reads.
//
//   STORE/plugins/ID/VERSION/   manifest.json and objects, exactly as installed
//   STORE/catalog.sqlite        what may be loaded
//   STORE/lock                  held while the two change together
//
// The folders are the truth and the catalog can be rebuilt from them. Any number of processes may install, remove and
// read at the same time.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "core/plugins/manifest.h"

namespace tenon {

class Database;

struct InstallOptions {
  bool allow_older = false;                                      // also replace a newer version
  bool allow_unsigned = false;                                   // packages without a signature
  bool allow_unknown_key = false;                                // packages signed with a key that is not trusted
  std::string keys;                                              // folder of the trusted keys; "": key_folder()
  std::chrono::milliseconds timeout = std::chrono::seconds(30);  // for each object, to answer in its child process
};

struct InstallReport {
  Manifest manifest;
  std::string replaced;            // the version that was there, or ""
  std::string signer;              // "example (key id …)" where it is signed, else ""
  bool changed = true;             // false: exactly this was installed already
  std::vector<std::string> notes;  // objects that could not be tried on this machine, and why
};

struct VerifyFinding {
  std::string id, problem;  // problem: one sentence
};

struct RescanReport {
  uint64_t plugins = 0;               // recorded
  std::vector<std::string> problems;  // folders that were left out, and why
};

class Store {
 public:
  // Nothing is made or read before the first use.
  explicit Store(std::string path);

  // Installs a sealed folder, which is taken for the user's own build, or a package, which must be signed with a
  // trusted key (core/packages/PACKAGES.md). Checks ABI, digests and architecture, tries every object that can run here
  // in a child process, copies the files into the store and records them in one transaction. One version per id is
  // kept. On failure nothing is left behind.
  InstallReport install(const std::string& path, const InstallOptions& options = {});

  // Takes the plugin out of the catalog, then deletes its files. Processes that have it loaded keep it. TN_E_NOT_FOUND
  // where the id is not installed here.
  void remove(const std::string& id);

  // Compares every installed object with its digest, and signed plugins with their signature. `count`: how many plugins
  // were looked at.
  std::vector<VerifyFinding> verify(uint64_t* count = nullptr) const;

  // Builds the catalog anew from the folders; needed when it is lost or damaged. Objects must match the digests of
  // their manifests.
  RescanReport rescan();

  const std::string& path() const { return path_; }
  std::string catalog_path() const { return path_ + "/catalog.sqlite"; }

 private:
  InstallReport install_folder(const std::string& folder, const InstallOptions& options);
  InstallReport install_package(const std::string& package, const InstallOptions& options);
  Database open_catalog() const;
  void drop_damaged_catalog() const;

  std::string path_;
};

}  // namespace tenon
