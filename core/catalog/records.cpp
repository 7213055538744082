#include "core/catalog/records.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "core/catalog/sql.h"
#include "core/error.h"
#include "core/plugins/kinds.h"

namespace tenon {
namespace {

namespace fs = std::filesystem;

int64_t pragma(const Database& db, const std::string& name) {
  Statement statement = db.prepare("PRAGMA " + name);
  return statement.step() ? statement.integer(0) : 0;
}

void check_version(int64_t version, const std::string& path) {
  if (version == sql::kSchemaVersion) return;
  if (version > sql::kSchemaVersion) {
    throw Error(TN_E_VERSION, path + ": the catalog was written by a newer Tenon (its format is " +
                                  std::to_string(version) + " and this one knows " +
                                  std::to_string(sql::kSchemaVersion) + "); update Tenon");
  }
  throw Error(TN_E_FORMAT,
              path + ": the catalog is damaged (it has no format number); rebuild it with `tenon plugin rescan`");
}

std::string join(const std::vector<std::string>& parts, char separator) {
  std::string text;
  for (const std::string& part : parts) {
    if (!text.empty()) text += separator;
    text += part;
  }
  return text;
}

// A catalog in a folder that this process cannot write is opened as immutable, since SQLite could not make its
// shared-memory file there.
std::string attach_name(const std::string& path) {
  std::string uri = "file:";
  for (const char c : path) {
    static constexpr char kDigits[] = "0123456789ABCDEF";
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
                       c == '/' || c == '.' || c == '-' || c == '_';
    uri += plain ? std::string(1, c) : std::string{'%', kDigits[byte >> 4], kDigits[byte & 15]};
  }
  const bool writable = access(path.c_str(), W_OK) == 0 && access(fs::path(path).parent_path().c_str(), W_OK) == 0;
  const bool shared = access((path + "-wal").c_str(), R_OK) == 0 && access((path + "-shm").c_str(), R_OK) == 0;
  return uri + (writable ? "?mode=rw" : shared ? "?mode=ro" : "?mode=ro&immutable=1");
}

}  // namespace

bool holds_plugins(const std::string& store) {
  std::error_code error;
  for (const fs::directory_entry& of_id : fs::directory_iterator(fs::path(store) / "plugins", error)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(of_id.path(), error)) {
      if (valid_version(entry.path().filename().string())) return true;
    }
  }
  return false;
}

void throw_catalog_lost(const std::string& store) {
  throw Error(
      TN_E_NOT_FOUND,
      store + ": there are plugins here but their catalog.sqlite is missing; rebuild it with `tenon plugin rescan`");
}

void prepare_catalog(Database& db, const std::string& path) {
  db.execute("PRAGMA foreign_keys = ON; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;");
  if (pragma(db, "user_version") == 0 && pragma(db, "schema_version") == 0) {
    Transaction transaction(db);
    db.execute(sql::kCreate);
    db.execute("PRAGMA user_version = " + std::to_string(sql::kSchemaVersion));
    transaction.commit();
  }
  check_version(pragma(db, "user_version"), path);
  db.execute(sql::kIndices);
}

void check_integrity(Database& db, const std::string& path) {
  Statement check = db.prepare("PRAGMA integrity_check(1)");
  const std::string verdict = check.step() ? check.text(0) : "";
  if (verdict != "ok")
    throw Error(TN_E_FORMAT,
                path + ": the catalog is damaged (" + verdict + "); rebuild it with `tenon plugin rescan`");
  for (const char* const table : {"plugin", "object", "provides", "requirement", "conflict", "layout"}) {
    (void)db.prepare(std::string("SELECT count(*) FROM ") + table).step();
  }
}

Database open_stack(const std::vector<std::string>& stores) {
  std::string names;
  for (const std::string& store : stores) names += (names.empty() ? "" : " or ") + store + "/catalog.sqlite";
  Database db = Database::in_memory(names);
  db.execute(sql::kCreate);
  int n = 0;
  for (const std::string& store : stores) {
    const std::string path = store + "/catalog.sqlite";
    std::string schema = "s";
    schema += std::to_string(++n);
    std::error_code error;
    if (!fs::exists(path, error)) {
      if (holds_plugins(store)) throw_catalog_lost(store);
      db.execute("ATTACH ':memory:' AS " + schema);
      std::string script = sql::kCreate;
      const std::string word = "TABLE IF NOT EXISTS ";
      for (size_t at = 0; (at = script.find(word, at)) != std::string::npos; at += word.size())
        script.insert(at + word.size(), schema + ".");
      db.execute(script);
      continue;
    }
    db.prepare("ATTACH ?1 AS " + schema).bind(1, attach_name(path)).run();
    check_version(pragma(db, schema + ".user_version"), path);
  }
  db.execute(sql::stack_views(n));
  return db;
}

void record_plugin(Database& db, const Manifest& m, const std::string& text, const std::string& folder,
                   const std::vector<FileIdentity>& objects) {
  db.prepare(sql::kInsertPlugin)
      .bind(1, m.id)
      .bind(2, m.version)
      .bind(3, version_key(m.version))
      .bind(4, kind_name(m.kind))
      .bind(5, m.name)
      .bind(6, m.summary)
      .bind(7, folder)
      .bind(8, text)
      .run();
  for (size_t i = 0; i < m.objects.size(); ++i) {
    const ObjectFile& object = m.objects[i];
    Statement insert = db.prepare(sql::kInsertObject);
    insert.bind(1, m.id)
        .bind(2, static_cast<int64_t>(i))
        .bind(3, object.backend)
        .bind(4, object.file)
        .bind(5, object.sha256);
    insert.bind(6, object.arch).bind(7, join(object.cpu, ' ')).bind(8, objects[i].bytes).bind(9, objects[i].mtime);
    insert.bind(10, objects[i].ctime).bind(11, objects[i].inode).run();
  }
  for (const std::string& tag : m.provides) db.prepare(sql::kInsertProvides).bind(1, m.id).bind(2, tag).run();
  for (const std::string& layout : m.layouts) db.prepare(sql::kInsertLayout).bind(1, m.id).bind(2, layout).run();
  record_relations(db, m.id, m.requires_, m.conflicts);
}

void record_relations(Database& db, const std::string& id, const std::vector<Relation>& required,
                      const std::vector<Relation>& conflicts) {
  Statement requirement = db.prepare(sql::kInsertRequirement);
  for (size_t i = 0; i < required.size(); ++i) {
    std::string_view tags = required[i].tag;
    while (!tags.empty()) {
      const size_t bar = std::min(tags.find('|'), tags.size());
      if (bar > 0)
        requirement.bind(1, id)
            .bind(2, static_cast<int64_t>(i))
            .bind(3, tags.substr(0, bar))
            .bind(4, required[i].reason)
            .run();
      tags.remove_prefix(std::min(bar + 1, tags.size()));
    }
  }
  Statement conflict = db.prepare(sql::kInsertConflict);
  for (size_t i = 0; i < conflicts.size(); ++i) {
    conflict.bind(1, id).bind(2, static_cast<int64_t>(i)).bind(3, conflicts[i].tag).bind(4, conflicts[i].reason).run();
  }
}

void erase_plugin(Database& db, const std::string& id) {
  db.prepare(sql::kDeletePlugin).bind(1, id).run();
}

std::string installed_folder(const Database& db, const std::string& id) {
  Statement row = db.prepare(sql::kInstalled);
  return row.bind(1, id).step() ? row.text(1) : "";
}

std::string installed_version(const Database& db, const Manifest& manifest, bool allow_older,
                              const std::string& store) {
  Statement row = db.prepare(sql::kInstalled);
  if (!row.bind(1, manifest.id).step()) return "";
  const std::string version = row.text(0);
  if (!allow_older && version_key(version) > version_key(manifest.version)) {
    throw Error(TN_E_CONFLICT, manifest.id + ' ' + version + " is installed in " + store + " and is newer than " +
                                   manifest.version + "; remove it first if the older version is meant");
  }
  return version;
}

bool is_recorded(const Database& db, const Manifest& manifest, const std::string& text) {
  Statement row = db.prepare(sql::kInstalled);
  return row.bind(1, manifest.id).step() && row.text(2) == text;
}

bool identities_hold(const Database& db, const Manifest& manifest, const std::string& folder) {
  Statement row = db.prepare(sql::kIdentities);
  row.bind(1, manifest.id);
  bool any = false;
  while (row.step()) {
    any = true;
    const FileIdentity recorded{row.integer(1), row.integer(2), row.integer(3), row.integer(4)};
    if (file_identity(folder + '/' + row.text(0)) != recorded) return false;
  }
  return any;
}

}  // namespace tenon
