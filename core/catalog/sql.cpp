#include "core/catalog/sql.h"

namespace tenon::sql {

std::string stack_views(int stores) {
  std::string script;
  for (const char* const table : {"plugin", "object", "provides", "requirement", "conflict", "layout"}) {
    script += std::string("CREATE TEMP VIEW all_") + table + " AS SELECT 0 AS store, * FROM main." + table;
    for (int i = 1; i <= stores; ++i) {
      const std::string n = std::to_string(i);
      script += " UNION ALL SELECT " + n + " AS store, * FROM s" + n + "." + table;
    }
    script += ";\n";
  }
  return script + R"sql(
CREATE TEMP VIEW current AS SELECT * FROM all_plugin a WHERE NOT EXISTS(
  SELECT 1 FROM all_plugin b WHERE b.id = a.id
    AND (b.version_key > a.version_key OR (b.version_key = a.version_key AND b.store < a.store)));
)sql";
}

std::string list(int64_t store) {
  const std::string s = "s" + std::to_string(store);
  return "SELECT id, version, kind, name, summary, version_key, (?1 = '' OR kind = ?1)"
         " AND iif(?2 = '', 1, EXISTS(SELECT 1 FROM " + s + ".provides t WHERE t.plugin = c.id AND t.tag = ?2))"
         " AND iif(?3 = '', 1, EXISTS(SELECT 1 FROM " + s + ".layout l WHERE l.plugin = c.id AND l.layout = ?3))"
         " AND iif(?4 = '', 1, EXISTS(SELECT 1 FROM " + s + ".object o WHERE o.plugin = c.id AND o.backend IN (?4, 'any')))"
         " FROM " + s + ".plugin c ORDER BY kind, id";
}

std::string backends(int64_t store) {
  return "SELECT plugin, backend FROM s" + std::to_string(store) + ".object ORDER BY plugin, position";
}

std::string refresh_object(int64_t store) {
  return "UPDATE s" + std::to_string(store) +
         ".object SET bytes = ?3, mtime = ?4, ctime = ?5, inode = ?6 WHERE plugin = ?1 AND file = ?2 AND sha256 = ?7";
}

}  // namespace tenon::sql
