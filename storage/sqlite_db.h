// A thin face of SQLite for this room: connections and statements that return Results.
// Errors: kDiskFull when the disk (or the file size limit) is full, kJournal for everything else.
#pragma once
#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace bp::storage {

/// The error of the last call on `db`, in words: what was done, to which file.
Error sqlite_error(sqlite3* db, std::string_view what);

/// A number that the file holds as text; kJournal when it is none.
Result<uint64_t> read_number(std::string_view text, std::string_view what);

class Statement {
 public:
  Statement() = default;
  static Result<Statement> prepare(sqlite3* db, std::string_view sql);
  Statement(Statement&& o) noexcept : stmt_(std::exchange(o.stmt_, nullptr)) {}
  Statement& operator=(Statement&& o) noexcept {
    std::swap(stmt_, o.stmt_);
    return *this;
  }
  ~Statement() { sqlite3_finalize(stmt_); }

  /// Binding starts over at parameter 1 after reset(). Bytes must live until the next step().
  Statement& text(std::string_view v) {
    sqlite3_bind_text64(stmt_, ++bound_, v.data() ? v.data() : "", v.size(), SQLITE_STATIC,
                        SQLITE_UTF8);
    return *this;
  }
  Statement& blob(std::string_view v) {
    sqlite3_bind_blob64(stmt_, ++bound_, v.data() ? v.data() : "", v.size(), SQLITE_STATIC);
    return *this;
  }
  Statement& null() {
    sqlite3_bind_null(stmt_, ++bound_);
    return *this;
  }
  Statement& num(int64_t v) {
    sqlite3_bind_int64(stmt_, ++bound_, v);
    return *this;
  }

  /// True: a row is there.
  Result<bool> step();
  /// Runs a statement that gives no rows, and resets it.
  Status run();
  void reset() {
    sqlite3_reset(stmt_);
    sqlite3_clear_bindings(stmt_);
    bound_ = 0;
  }

  sqlite3_stmt* get() const { return stmt_; }
  int64_t int_at(int column) const { return sqlite3_column_int64(stmt_, column); }
  std::string bytes_at(int column) const {
    const void* data = sqlite3_column_blob(stmt_, column);
    const int size = sqlite3_column_bytes(stmt_, column);
    return data ? std::string(static_cast<const char*>(data), size_t(size)) : std::string();
  }

 private:
  explicit Statement(sqlite3_stmt* stmt) : stmt_(stmt) {}
  sqlite3_stmt* stmt_ = nullptr;
  int bound_ = 0;
};

class Database {
 public:
  Database() = default;
  /// `vfs`: name of a registered one; empty: the default.
  static Result<Database> open(const std::string& path, int flags, const std::string& vfs = {});
  Database(Database&& o) noexcept : db_(std::exchange(o.db_, nullptr)) {}
  Database& operator=(Database&& o) noexcept {
    std::swap(db_, o.db_);
    return *this;
  }
  ~Database() { sqlite3_close_v2(db_); }

  sqlite3* get() const { return db_; }
  Status exec(const std::string& sql);
  /// First column of the first row.
  Result<int64_t> number(const std::string& sql);
  Result<std::string> text(const std::string& sql);

 private:
  sqlite3* db_ = nullptr;
};

}  // namespace bp::storage
