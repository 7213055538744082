#include "core/catalog/sqlite.h"

#include <sqlite3.h>

#include <utility>

#include "core/error.h"

namespace tenon {

void Database::Close::operator()(sqlite3* db) const {
  sqlite3_close_v2(db);
}
void Statement::Finalize::operator()(sqlite3_stmt* statement) const {
  sqlite3_finalize(statement);
}

Database::Database(std::string name, const std::string& file, int flags) : name_(std::move(name)) {
  sqlite3* raw = nullptr;
  const int result = sqlite3_open_v2(file.c_str(), &raw, flags | SQLITE_OPEN_URI | SQLITE_OPEN_EXRESCODE, nullptr);
  db_.reset(raw);
  if (result != SQLITE_OK) fail();
  sqlite3_busy_timeout(raw, 20'000);
  sqlite3_db_config(raw, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(raw, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
}

Database Database::in_memory(std::string name) {
  return Database(std::move(name), ":memory:", SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
}

Database Database::open(const std::string& path) {
  return Database(path, path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
}

void Database::fail() const {
  const int code = db_ ? sqlite3_errcode(db_.get()) : SQLITE_NOMEM;
  const std::string words = db_ ? sqlite3_errmsg(db_.get()) : "out of memory";
  switch (code & 0xff) {
    case SQLITE_ERROR:  // a table or column that should be there is not
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
    case SQLITE_CONSTRAINT:
      throw Error(TN_E_FORMAT,
                  name_ + ": the catalog is damaged (" + words + "); rebuild it with `tenon plugin rescan`");
    case SQLITE_NOMEM:
      throw Error(TN_E_MEMORY, name_ + ": the system has no memory left for the catalog; end other programs");
    case SQLITE_BUSY:
      throw Error(TN_E_IO,
                  name_ + ": another process has been writing the catalog for 20 seconds; try again when it is done");
    default:
      throw Error(TN_E_IO, name_ + ": the catalog cannot be used (" + words +
                               "); check the folder's permissions and the free disk space");
  }
}

void Database::execute(const std::string& sql) {
  if (sqlite3_exec(db_.get(), sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) fail();
}

Statement Database::prepare(std::string_view sql) const {
  sqlite3_stmt* raw = nullptr;
  if (sqlite3_prepare_v2(db_.get(), sql.data(), static_cast<int>(sql.size()), &raw, nullptr) != SQLITE_OK) fail();
  return Statement(this, raw);
}

Statement& Statement::bind(int at, std::string_view value) {
  if (sqlite3_bind_text64(raw_.get(), at, value.data(), value.size(), SQLITE_TRANSIENT, SQLITE_UTF8) != SQLITE_OK)
    db_->fail();
  return *this;
}

Statement& Statement::bind(int at, int64_t value) {
  if (sqlite3_bind_int64(raw_.get(), at, value) != SQLITE_OK) db_->fail();
  return *this;
}

bool Statement::step() {
  const int result = sqlite3_step(raw_.get());
  if (result != SQLITE_ROW && result != SQLITE_DONE) db_->fail();
  return result == SQLITE_ROW;
}

void Statement::run() {
  step();
  reset();
}

void Statement::reset() {
  if (sqlite3_reset(raw_.get()) != SQLITE_OK) db_->fail();
}

std::string_view Statement::view(int column) const {
  const void* const data = sqlite3_column_blob(raw_.get(), column);
  return data ? std::string_view(static_cast<const char*>(data), static_cast<size_t>(sqlite3_column_bytes(raw_.get(), column)))
              : std::string_view();
}

int64_t Statement::integer(int column) const {
  return sqlite3_column_int64(raw_.get(), column);
}

Transaction::Transaction(Database& db) : db_(db) {
  db_.execute("BEGIN IMMEDIATE");
}

Transaction::~Transaction() {
  if (!open_) return;
  try {
    db_.execute("ROLLBACK");
  } catch (const Error&) {  // SQLite has rolled back by itself
  }
}

void Transaction::commit() {
  db_.execute("COMMIT");
  open_ = false;
}

}  // namespace tenon
