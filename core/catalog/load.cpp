// Loading through the catalog: which object, and whether it is still what was installed.
#include <sstream>

#include "core/catalog/catalog.h"
#include "core/catalog/catalog_state.h"
#include "core/catalog/file_identity.h"
#include "core/catalog/sql.h"
#include "core/catalog/store_lock.h"
#include "core/error.h"
#include "core/plugins/cpu.h"
#include "core/plugins/elf.h"
#include "core/plugins/sha256.h"

namespace tenon {
namespace {

struct ObjectRow {
  std::string backend, file, sha256, arch;
  std::vector<std::string> cpu;
  FileIdentity identity;
};

std::vector<ObjectRow> objects_of(const Database& db, int64_t store, std::string_view id) {
  Statement rows = db.prepare(sql::kObjectRows);
  rows.bind(1, store).bind(2, id);
  std::vector<ObjectRow> out;
  while (rows.step()) {
    out.push_back({rows.text(0),
                   rows.text(1),
                   rows.text(2),
                   rows.text(3),
                   {},
                   {rows.integer(5), rows.integer(6), rows.integer(7), rows.integer(8)}});
    std::istringstream features(rows.text(4));
    for (std::string feature; features >> feature;) out.back().cpu.push_back(feature);
  }
  return out;
}

// The first object for the backend that this machine can run; the error says why none can.
ObjectRow choose(const std::vector<ObjectRow>& objects, const std::string& id, std::string_view backend) {
  std::string why;
  for (const ObjectRow& object : objects) {
    if (object.backend != backend && object.backend != "any") continue;
    if (object.arch != host_arch()) {
      why = object.file + " is for " + object.arch + " and this machine is " + host_arch();
    } else if (const auto missing = missing_cpu_features(object.cpu); !missing.empty()) {
      why = object.file + " needs " + missing[0] + ", which this CPU lacks";
    } else {
      return object;
    }
  }
  if (!why.empty())
    throw Error(TN_E_DEVICE, id + " has no object that this machine can run (" + why + "); install a build for it");
  std::string have;
  for (const ObjectRow& object : objects) {
    if (have.find(object.backend) == std::string::npos) have += (have.empty() ? "" : ", ") + object.backend;
  }
  throw Error(TN_E_UNSUPPORTED, id + " is not built for the device " + std::string(backend) + ", only for " + have +
                                    "; choose another device or technique");
}

// Remembers that the digest was found right. A store that cannot be written is asked again each time.
void remember(const Database& db, int64_t store, std::string_view id, const ObjectRow& object,
              const FileIdentity& now) {
  try {
    Statement update = db.prepare(sql::refresh_object(store));
    update.bind(1, id).bind(2, object.file).bind(3, now.bytes).bind(4, now.mtime).bind(5, now.ctime).bind(6, now.inode);
    update.bind(7, object.sha256).run();
  } catch (const Error&) {
  }
}

bool as_installed(const Database& db, int64_t store, std::string_view id, const ObjectRow& object,
                  const std::string& path) {
  const auto before = file_identity(path);
  if (!before) return false;
  if (*before == object.identity) return true;
  if (sha256_of_file(path) != object.sha256) return false;
  remember(db, store, id, object, *before);
  return true;
}

LoadedPlugin load_object(const std::string& path, std::string_view id) {
  LoadedPlugin plugin = load_library(path);
  if (plugin.id() != id) {
    throw Error(TN_E_TRUST, path + ": the object says that it is " + std::string(plugin.id()) + ", not " +
                                std::string(id) + "; install it again");
  }
  return plugin;
}

}  // namespace

LoadedPlugin Catalog::load(std::string_view id, std::string_view backend, Trust trust) const {
  const auto turn = std::lock_guard(state_->mutex);
  const auto attempt = [&](const State::Place& place) {
    const ObjectRow object = choose(objects_of(state_->db, place.store, id), std::string(id), backend);
    const std::string path = place.folder + '/' + object.file;
    if (trust == Trust::kCatalogOnly && !as_installed(state_->db, place.store, id, object, path)) {
      throw Error(TN_E_TRUST, path +
                                  ": the object is missing or differs from what was installed; run `tenon plugin "
                                  "verify`, then install " +
                                  std::string(id) + " again");
    }
    return load_object(path, id);
  };
  const State::Place place = state_->get(id);
  try {
    return attempt(place);
  } catch (const Error&) {
    // An installer may have replaced the files between the look at the catalog and the load. Only the second look holds
    // installers off, so that a plugin that hangs while it is loaded does not.
    const StoreLock lock(state_->stores[static_cast<size_t>(place.store - 1)], StoreLock::Mode::kRead);
    return attempt(state_->get(id));
  }
}

}  // namespace tenon
