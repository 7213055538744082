#include "core/catalog/store.h"

#include <algorithm>
#include <filesystem>
#include <optional>

#include "core/catalog/file_identity.h"
#include "core/catalog/records.h"
#include "core/catalog/sql.h"
#include "core/catalog/sqlite.h"
#include "core/catalog/store_lock.h"
#include "core/error.h"
#include "core/files/atomic_file.h"
#include "core/files/atomic_folder.h"
#include "core/packages/contents.h"
#include "core/packages/key_files.h"
#include "core/packages/package.h"
#include "core/packages/signature.h"
#include "core/packages/trust.h"
#include "core/plugins/cpu.h"
#include "core/plugins/elf.h"
#include "core/plugins/kinds.h"
#include "core/plugins/probe.h"
#include "core/plugins/seal.h"
#include "core/plugins/sha256.h"

namespace tenon {
namespace {

namespace fs = std::filesystem;

void make_folders(const std::string& store, const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    throw Error(TN_E_IO, store + ": the store cannot be written (" + error.message() +
                             "); choose another with the environment variable TENON_HOME");
  }
}

void check_digest(const std::string& path, const ObjectFile& object) {
  if (!file_identity(path))
    throw Error(TN_E_NOT_FOUND, path + ": this object is in the manifest but not in the folder; copy the whole folder");
  if (sha256_of_file(path) != object.sha256) {
    throw Error(
        TN_E_TRUST,
        path + ": its SHA-256 differs from the manifest's; the object was altered or damaged, get the plugin again");
  }
}

// Everything that can be known about a folder without installing it. Objects that can run here are tried.
void examine(const std::string& folder, const InstallOptions& options, InstallReport& report) {
  const Manifest& m = report.manifest;
  if (m.abi_major != TN_ABI_MAJOR || m.abi_minor > TN_ABI_MINOR) {
    throw Error(TN_E_VERSION, folder + ": " + m.id + ' ' + m.version + " speaks ABI " + abi_text(m.abi_major, m.abi_minor) +
                                  " but this Tenon offers " + abi_text() +
                                  "; update Tenon or choose another version");
  }
  bool proven = false;
  for (const ObjectFile& object : m.objects) {
    const std::string path = fs::path(folder) / object.file;
    check_digest(path, object);
    const std::string arch = object_arch(path);
    if (arch != object.arch) {
      throw Error(TN_E_FORMAT, path + ": the manifest says " + object.arch + " but the object was built for " + arch +
                                   "; seal the folder again");
    }
    if (arch != host_arch()) {
      report.notes.push_back(object.file + " was not tried: it is for " + arch + " and this machine is " + host_arch());
      continue;
    }
    if (const auto missing = missing_cpu_features(object.cpu); !missing.empty()) {
      report.notes.push_back(object.file + " was not tried: this CPU lacks " + missing[0]);
      continue;
    }
    const Probe probe = probe_object(path, options.timeout);
    if (probe.outcome == Probe::Outcome::kBroken) throw Error(TN_E_FORMAT, probe.sentence + "; it was not installed");
    if (probe.outcome == Probe::Outcome::kNotForHere) {
      report.notes.push_back(probe.sentence);
      continue;
    }
    check_agreement(path, m, object, probe.description);
    proven = true;
  }
  if (!proven) {
    throw Error(TN_E_DEVICE, folder + ": none of the objects of " + m.id + " can run on this machine (" +
                                 (report.notes.empty() ? "" : report.notes[0]) + "), so it was not installed");
  }
}

// Who signed is known from `signer`; `what` is the package, or the folder that one was unpacked into.
void admit(const std::string& what, bool is_package, const std::optional<PublicKey>& signer,
           const InstallOptions& options) {
  if (!signer) {
    if (is_package && !options.allow_unsigned)
      throw Error(TN_E_TRUST,
                  what +
                      ": the package is not signed; get a signed one, or install it with --allow-unsigned if you "
                      "know where it comes from");
    return;
  }
  if (options.allow_unknown_key || TrustStore(options.keys.empty() ? key_folder() : options.keys).find(*signer)) return;
  throw Error(TN_E_TRUST,
              what + ": it is signed by " + words(*signer) +
                  ", whom you do not trust; compare the key id with the author's and run `tenon plugin trust "
                  "KEY.pub`, or install it with --allow-unknown-key");
}

void copy_plugin(const std::string& from, const Manifest& manifest, const fs::path& to) {
  std::error_code error;
  std::vector<std::string> names = packaged_names(from, manifest);
  if (fs::exists(fs::path(from) / kSignatureFile, error)) names.emplace_back(kSignatureFile);
  for (const std::string& name : names) {
    fs::copy_file(fs::path(from) / name, to / name, error);
    if (error)
      throw Error(TN_E_IO,
                  (to / name).string() + ": the file cannot be copied into the store (" + error.message() + ")");
  }
  for (const ObjectFile& object : manifest.objects) check_digest(to / object.file, object);
  if (manifest_text(read_manifest(to)) != manifest_text(manifest))
    throw Error(TN_E_IO, from + ": the manifest changes while the plugin is installed; try again when it is complete");
}

std::vector<FileIdentity> identities(const Manifest& manifest, const fs::path& folder) {
  std::vector<FileIdentity> found;
  for (const ObjectFile& object : manifest.objects)
    found.push_back(file_identity(folder / object.file).value_or(FileIdentity{}));
  return found;
}

std::string relative_folder(const Manifest& manifest) {
  return "plugins/" + manifest.id + '/' + manifest.version;
}

// Version folders of one id, newest first; anything else in there is none of ours.
std::vector<fs::path> version_folders(const fs::path& of_id) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(of_id, error)) {
    if (entry.is_directory(error) && valid_version(entry.path().filename().string())) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) {
    return version_key(a.filename().string()) > version_key(b.filename().string());
  });
  return found;
}

}  // namespace

Store::Store(std::string path) : path_(fs::absolute(path).lexically_normal().string()) {
  while (path_.size() > 1 && path_.back() == '/') path_.pop_back();
}

// The caller holds the lock.
Database Store::open_catalog() const {
  std::error_code error;
  if (!fs::exists(catalog_path(), error) && holds_plugins(path_)) throw_catalog_lost(path_);
  Database db = Database::open(catalog_path());
  prepare_catalog(db, catalog_path());
  return db;
}

InstallReport Store::install(const std::string& path, const InstallOptions& options) {
  std::error_code error;
  return fs::is_regular_file(path, error) ? install_package(path, options) : install_folder(path, options);
}

InstallReport Store::install_package(const std::string& package, const InstallOptions& options) {
  std::error_code error;
  const bool fresh = !fs::exists(path_, error);
  make_folders(path_, path_);
  try {
    const AtomicFolder unpacked(path_ + "/package");  // never published
    try {
      const PackageContents contents = unpack(package, unpacked.path());
      admit(package, true, contents.signer, options);
      return install_folder(unpacked.path(), options);
    } catch (const Error& e) {
      throw Error(e.code(), about_package(e.what(), unpacked.path(), package));
    }
  } catch (...) {
    if (fresh) fs::remove(path_, error);  // where it is empty
    throw;
  }
}

InstallReport Store::install_folder(const std::string& folder, const InstallOptions& options) {
  InstallReport report;
  report.manifest = read_manifest(folder);
  const Manifest& manifest = report.manifest;
  const std::optional<PublicKey> signer = check_signature(folder, manifest);
  admit(folder, false, signer, options);
  if (signer) report.signer = words(*signer);
  const fs::path target = fs::path(path_) / relative_folder(manifest);
  const std::string text = manifest_text(manifest);
  std::error_code error;
  if (fs::exists(catalog_path(), error)) {
    const StoreLock lock(path_, StoreLock::Mode::kWrite);
    const Database db = open_catalog();
    report.replaced = installed_version(db, manifest, options.allow_older, path_);
    if (is_recorded(db, manifest, text) && identities_hold(db, manifest, target)) {
      report.changed = false;
      return report;
    }
  }
  examine(folder, options, report);

  make_folders(path_, path_);
  std::optional<StoreLock> lock(std::in_place, path_, StoreLock::Mode::kWrite);
  (void)open_catalog();  // the catalog exists before any folder does, so that a folder without a catalog means that it
                         // was lost
  make_folders(path_, target.parent_path());
  AtomicFolder incoming(target);
  lock.reset();
  copy_plugin(folder, manifest, incoming.path());

  lock.emplace(path_, StoreLock::Mode::kWrite);
  Database db = open_catalog();
  report.replaced =
      installed_version(db, manifest, options.allow_older, path_);  // another process may have been faster
  Transaction transaction(db);
  const std::string previous = installed_folder(db, manifest.id);
  erase_plugin(db, manifest.id);
  record_plugin(db, manifest, text, relative_folder(manifest), identities(manifest, incoming.path()));
  incoming.commit_replacing();
  transaction.commit();
  if (!previous.empty() && previous != relative_folder(manifest)) fs::remove_all(fs::path(path_) / previous, error);
  return report;
}

void Store::remove(const std::string& id) {
  std::error_code error;
  const auto missing = [&] {
    return Error(TN_E_NOT_FOUND, id + " is not installed in " + path_ + ", so it cannot be removed");
  };
  if (!fs::exists(catalog_path(), error) && !holds_plugins(path_)) throw missing();
  const StoreLock lock(path_, StoreLock::Mode::kWrite);
  Database db = open_catalog();
  const std::string folder = installed_folder(db, id);
  if (folder.empty()) throw missing();
  erase_plugin(db, id);
  const fs::path path = fs::path(path_) / folder;
  fs::remove_all(path, error);
  fs::remove(path.parent_path(), error);  // where nothing else is in it
}

std::vector<VerifyFinding> Store::verify(uint64_t* count) const {
  std::vector<VerifyFinding> findings;
  uint64_t n = 0;
  std::error_code error;
  if (fs::exists(catalog_path(), error) || holds_plugins(path_)) {
    const StoreLock lock(path_, StoreLock::Mode::kRead);
    const Database db = open_stack({path_});
    Statement plugins = db.prepare(sql::kStorePlugins);
    for (; plugins.step(); ++n) {
      const fs::path folder = fs::path(path_) / plugins.text(1);
      Statement objects = db.prepare(sql::kStoreObjects);
      objects.bind(1, plugins.text(0));
      while (objects.step()) {
        const std::string path = folder / objects.text(0);
        if (!file_identity(path)) {
          findings.push_back({plugins.text(0), path + ": the object is missing; install the plugin again"});
        } else if (sha256_of_file(path) != objects.text(1)) {
          findings.push_back(
              {plugins.text(0), path + ": the object differs from what was installed; install the plugin again"});
        }
      }
      try {
        (void)check_signature(folder, read_manifest(folder));
      } catch (const Error& e) {
        findings.push_back({plugins.text(0), e.what()});
      }
    }
  }
  if (count) *count = n;
  return findings;
}

RescanReport Store::rescan() {
  RescanReport report;
  std::error_code error;
  if (!fs::exists(path_, error)) return report;
  const StoreLock lock(path_, StoreLock::Mode::kWrite);
  drop_damaged_catalog();
  Database db = Database::open(catalog_path());
  prepare_catalog(db, catalog_path());
  Transaction transaction(db);
  db.execute(sql::kDeleteAll);
  std::vector<fs::path> ids;
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(path_) / "plugins", error))
    ids.push_back(entry.path());
  std::sort(ids.begin(), ids.end());
  for (const fs::path& of_id : ids) {
    for (const fs::path& folder : version_folders(of_id)) {
      try {
        const Manifest manifest = read_manifest(folder);
        if (fs::path(relative_folder(manifest)) != fs::relative(folder, path_)) {
          throw Error(TN_E_CONFLICT, folder.string() + ": the folder holds " + manifest.id + ' ' + manifest.version +
                                         " and was left out");
        }
        for (const ObjectFile& object : manifest.objects) check_digest(folder / object.file, object);
        (void)check_signature(folder, manifest);
        record_plugin(db, manifest, manifest_text(manifest), relative_folder(manifest), identities(manifest, folder));
        ++report.plugins;
        break;  // one version per id: the newest sound one
      } catch (const Error& e) {
        if (e.code() == TN_E_MEMORY) throw;
        report.problems.emplace_back(e.what());
      }
    }
  }
  transaction.commit();
  return report;
}

// Removes a catalog that cannot be used at all. The caller holds the lock.
void Store::drop_damaged_catalog() const {
  try {
    Database db = Database::open(catalog_path());
    prepare_catalog(db, catalog_path());
    check_integrity(db, catalog_path());
    return;
  } catch (const Error& e) {
    if (e.code() != TN_E_FORMAT) throw;
  }
  std::error_code error;
  for (const char* const suffix : {"", "-wal", "-shm"}) fs::remove(catalog_path() + suffix, error);
}

}  // namespace tenon
