// The little of SQLite that the catalog uses, with errors as sentences.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

struct sqlite3;
struct sqlite3_stmt;

namespace tenon {

class Statement;

// One connection; used by one thread at a time. Errors begin with `name`: a damaged file is TN_E_FORMAT and names the
// way to rebuild it, everything else that can go wrong with a file is TN_E_IO.
class Database {
 public:
  static Database in_memory(std::string name);
  // Opens or creates the file.
  static Database open(const std::string& path);

  // Runs a script without parameters.
  void execute(const std::string& sql);
  Statement prepare(std::string_view sql) const;

 private:
  friend class Statement;
  struct Close {
    void operator()(sqlite3* db) const;
  };
  Database(std::string name, const std::string& file, int flags);
  [[noreturn]] void fail() const;

  std::string name_;
  std::unique_ptr<sqlite3, Close> db_;
};

// A prepared statement. Parameters are numbered from 1, columns from 0. Must not outlive its Database.
class Statement {
 public:
  Statement& bind(int at, std::string_view value);
  Statement& bind(int at, int64_t value);
  // True while there is a row.
  bool step();
  // For statements that return no rows: runs and makes ready for new parameters.
  void run();
  // Ready for new parameters and another round of rows.
  void reset();
  std::string text(int column) const { return std::string(view(column)); }
  // Valid until the next step.
  std::string_view view(int column) const;
  int64_t integer(int column) const;

 private:
  friend class Database;
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  Statement(const Database* db, sqlite3_stmt* raw) : db_(db), raw_(raw) {}

  const Database* db_;
  std::unique_ptr<sqlite3_stmt, Finalize> raw_;
};

// A transaction that may write; rolled back unless it is committed.
class Transaction {
 public:
  explicit Transaction(Database& db);
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  void commit();

 private:
  Database& db_;
  bool open_ = true;
};

}  // namespace tenon
