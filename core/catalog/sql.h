// All SQL of the catalog.
//
// A store's catalog.sqlite holds one row for each plugin. The reader attaches every store of its stack to a connection
// in memory, whose own tables hold the host's features, and looks at all of them through temporary views; a plugin that
// several stores have counts once, in its newest version (of equal ones, in the first store).
#pragma once

#include <cstdint>
#include <string>

namespace tenon::sql {

inline constexpr int kSchemaVersion = 1;

// `requirement` has a row for each alternative; rows of one position are met together. Folders are relative to the
// store. bytes, mtime, ctime and inode are those of the object when its digest was last found right.
inline constexpr const char* kCreate = R"sql(
CREATE TABLE IF NOT EXISTS plugin(
  id TEXT PRIMARY KEY, version TEXT NOT NULL, version_key TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
  summary TEXT NOT NULL, folder TEXT NOT NULL, manifest TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS object(
  plugin TEXT NOT NULL REFERENCES plugin(id) ON DELETE CASCADE, position INTEGER NOT NULL, backend TEXT NOT NULL,
  file TEXT NOT NULL, sha256 TEXT NOT NULL, arch TEXT NOT NULL, cpu TEXT NOT NULL,
  bytes INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, inode INTEGER NOT NULL,
  PRIMARY KEY(plugin, position)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS provides(
  plugin TEXT NOT NULL REFERENCES plugin(id) ON DELETE CASCADE, tag TEXT NOT NULL, PRIMARY KEY(plugin, tag)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requirement(
  plugin TEXT NOT NULL REFERENCES plugin(id) ON DELETE CASCADE, position INTEGER NOT NULL, tag TEXT NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY(plugin, position, tag)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS conflict(
  plugin TEXT NOT NULL REFERENCES plugin(id) ON DELETE CASCADE, position INTEGER NOT NULL, tag TEXT NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY(plugin, position)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS layout(
  plugin TEXT NOT NULL REFERENCES plugin(id) ON DELETE CASCADE, layout TEXT NOT NULL, PRIMARY KEY(plugin, layout)) WITHOUT ROWID;
)sql";
// Catalogs of before get those that they lack at the next installation.
inline constexpr const char* kIndices = R"sql(
CREATE INDEX IF NOT EXISTS plugin_listing ON plugin(kind, id, version, version_key, name, summary);
CREATE INDEX IF NOT EXISTS object_listing ON object(plugin, position, backend);
CREATE INDEX IF NOT EXISTS provides_by_tag ON provides(tag);
CREATE INDEX IF NOT EXISTS layout_by_layout ON layout(layout);
)sql";

inline constexpr const char* kInsertPlugin =
    "INSERT INTO plugin(id, version, version_key, kind, name, summary, folder, manifest) VALUES(?1, ?2, ?3, ?4, ?5, "
    "?6, ?7, ?8)";
inline constexpr const char* kInsertObject =
    "INSERT INTO object(plugin, position, backend, file, sha256, arch, cpu, bytes, mtime, ctime, inode) "
    "VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
inline constexpr const char* kInsertProvides = "INSERT OR IGNORE INTO provides(plugin, tag) VALUES(?1, ?2)";
inline constexpr const char* kInsertRequirement =
    "INSERT OR IGNORE INTO requirement(plugin, position, tag, reason) VALUES(?1, ?2, ?3, ?4)";
inline constexpr const char* kInsertConflict =
    "INSERT INTO conflict(plugin, position, tag, reason) VALUES(?1, ?2, ?3, ?4)";
inline constexpr const char* kInsertLayout = "INSERT OR IGNORE INTO layout(plugin, layout) VALUES(?1, ?2)";
inline constexpr const char* kDeletePlugin = "DELETE FROM plugin WHERE id = ?1";
inline constexpr const char* kDeleteAll = "DELETE FROM plugin";
inline constexpr const char* kInstalled = "SELECT version, folder, manifest FROM plugin WHERE id = ?1";
inline constexpr const char* kIdentities =
    "SELECT file, bytes, mtime, ctime, inode FROM object WHERE plugin = ?1 ORDER BY position";
// In the n-th store of the stack. Parameters: plugin, file, the four parts of its identity, digest.
std::string refresh_object(int64_t store);

// The views over the stack: all_<table> with a column `store` (0 = the host's own), and `current`.
std::string stack_views(int stores);

inline constexpr const char* kCurrent =
    "SELECT store, version, kind, name, summary, folder, manifest FROM current WHERE id = ?1";
// Every plugin of the n-th store by kind and id, and whether it is what the parameters ask for: kind, tag, layout,
// backend; '' = any. Which version counts the caller decides: `current` would look every plugin up again, and that is
// most of the time of a list. iif and not OR, which would look up what nobody asked for. Tables hold manifests and
// digests too; the indices for lists hold what is asked for here.
std::string list(int64_t store);
// The backends of a store's objects, those of a plugin in their order.
std::string backends(int64_t store);
inline constexpr const char* kObjectRows =
    "SELECT backend, file, sha256, arch, cpu, bytes, mtime, ctime, inode FROM all_object WHERE store = ?1 AND plugin = "
    "?2 ORDER BY position";
// Of the first store of a stack, shadowed or not.
inline constexpr const char* kStorePlugins = "SELECT id, folder FROM s1.plugin ORDER BY id";
inline constexpr const char* kStoreObjects = "SELECT file, sha256 FROM s1.object WHERE plugin = ?1 ORDER BY position";
inline constexpr const char* kAllNames = "SELECT id FROM current WHERE store > 0 ORDER BY id";
inline constexpr const char* kIsFeature = "SELECT 1 FROM main.plugin WHERE id = ?1 AND kind = 'feature'";
inline constexpr const char* kNames = "SELECT id FROM current WHERE store > 0 AND kind = ?1 ORDER BY id";

// The mix in question: its members, and the tags with the member that brings each (-1: the run).
inline constexpr const char* kMixTables = R"sql(
CREATE TEMP TABLE member(position INTEGER PRIMARY KEY, store INTEGER NOT NULL, plugin TEXT NOT NULL);
CREATE TEMP TABLE present(tag TEXT NOT NULL, member INTEGER NOT NULL, PRIMARY KEY(tag, member)) WITHOUT ROWID;
)sql";
inline constexpr const char* kClearMix = "DELETE FROM temp.member; DELETE FROM temp.present;";
inline constexpr const char* kInsertMember = "INSERT INTO temp.member(position, store, plugin) VALUES(?1, ?2, ?3)";
inline constexpr const char* kInsertPresent = "INSERT OR IGNORE INTO temp.present(tag, member) VALUES(?1, ?2)";
inline constexpr const char* kInsertProvided = R"sql(
INSERT OR IGNORE INTO temp.present(tag, member)
SELECT t.tag, m.position FROM temp.member m JOIN all_provides t ON t.store = m.store AND t.plugin = m.plugin)sql";

// Why the mix is not possible: (plugin, tag, reason, kind of obstacle). A plugin's own tags never conflict with itself.
inline constexpr const char* kObstacles = R"sql(
SELECT m.plugin, group_concat(r.tag, '|') AS tag, r.reason, 'requires' AS obstacle, m.position AS place, r.position AS rank
FROM temp.member m JOIN all_requirement r ON r.store = m.store AND r.plugin = m.plugin
GROUP BY m.position, r.position HAVING max(EXISTS(SELECT 1 FROM temp.present p WHERE p.tag = r.tag)) = 0
UNION ALL
SELECT m.plugin, c.tag, c.reason, 'conflicts', m.position, 1000 + c.position
FROM temp.member m JOIN all_conflict c ON c.store = m.store AND c.plugin = m.plugin
WHERE EXISTS(SELECT 1 FROM temp.present p WHERE p.tag = c.tag AND p.member <> m.position)
UNION ALL
SELECT m.plugin, p.tag, '', 'device', m.position, 2000
FROM temp.member m JOIN temp.present p ON p.tag LIKE 'device:%' AND p.member = -1
WHERE m.store > 0 AND NOT EXISTS(SELECT 1 FROM all_object o WHERE o.store = m.store AND o.plugin = m.plugin
                                 AND o.backend IN (substr(p.tag, 8), 'any'))
ORDER BY place, rank)sql";

}  // namespace tenon::sql
