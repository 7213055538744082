// Rows of a store's catalog: opening and checking the file, writing and reading a plugin's rows.
#pragma once

#include <string>
#include <vector>

#include "core/catalog/file_identity.h"
#include "core/catalog/sqlite.h"
#include "core/plugins/manifest.h"

namespace tenon {

// Whether the store has folders of plugins, whatever its catalog says.
bool holds_plugins(const std::string& store);
[[noreturn]] void throw_catalog_lost(const std::string& store);

// Makes a new catalog file ready, or checks that an existing one is ours and of a version that this Tenon knows.
void prepare_catalog(Database& db, const std::string& path);
// Throws TN_E_FORMAT where SQLite finds the file damaged; reads all of it.
void check_integrity(Database& db, const std::string& path);

// A connection in memory with the catalogs of `stores` attached as s1, s2, … and the views of sql.h. Stores without a
// catalog are empty; one that lost its catalog, or whose catalog is damaged, throws one sentence that names the way to
// rebuild it.
Database open_stack(const std::vector<std::string>& stores);

void record_plugin(Database& db, const Manifest& manifest, const std::string& text, const std::string& folder,
                   const std::vector<FileIdentity>& objects);
void record_relations(Database& db, const std::string& id, const std::vector<Relation>& required,
                      const std::vector<Relation>& conflicts);
void erase_plugin(Database& db, const std::string& id);

// The folder relative to the store; "" where the id is not installed.
std::string installed_folder(const Database& db, const std::string& id);
// The version that an installation of `manifest` would replace, or "". A newer one throws TN_E_CONFLICT unless
// `allow_older`.
std::string installed_version(const Database& db, const Manifest& manifest, bool allow_older, const std::string& store);
// Whether exactly this manifest is recorded, and whether its objects lie in `folder` as they were recorded.
bool is_recorded(const Database& db, const Manifest& manifest, const std::string& text);
bool identities_hold(const Database& db, const Manifest& manifest, const std::string& folder);

}  // namespace tenon
