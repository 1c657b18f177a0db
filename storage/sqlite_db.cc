#include "storage/sqlite_db.h"

#include <cerrno>
#include <charconv>
#include <cstring>

namespace bp::storage {

Error sqlite_error(sqlite3* db, std::string_view what) {
  const int code = db ? sqlite3_extended_errcode(db) : SQLITE_NOMEM;
  const int system = db ? sqlite3_system_errno(db) : 0;
  const char* file = db ? sqlite3_db_filename(db, "main") : nullptr;
  std::string text = "journal " + std::string(file ? file : "") + ": " + std::string(what) + ": " +
                     (db ? sqlite3_errmsg(db) : "out of memory") + " (SQLite " +
                     std::to_string(code) + ")";
  const int primary = code & 0xff;
  if (primary == SQLITE_FULL || system == ENOSPC || system == EDQUOT || system == EFBIG) {
    return {ErrorCode::kDiskFull, text, {}};
  }
  if (system != 0) text += std::string(", ") + std::strerror(system);
  if (primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB) {
    return {ErrorCode::kJournal, text + "; the file is damaged or is no journal",
            "Keep the file for inspection and restore the newest backup in its place"};
  }
  return {ErrorCode::kJournal, text, {}};
}

Result<uint64_t> read_number(std::string_view text, std::string_view what) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size()) return value;
  return Error{
      ErrorCode::kJournal, "the journal is damaged: " + std::string(what) + " is no number", {}};
}

Result<Statement> Statement::prepare(sqlite3* db, std::string_view sql) {
  sqlite3_stmt* stmt = nullptr;
  if (sqlite3_prepare_v3(db, sql.data(), int(sql.size()), SQLITE_PREPARE_PERSISTENT, &stmt,
                         nullptr) != SQLITE_OK) {
    return sqlite_error(db, "prepare");
  }
  return Statement(stmt);
}

Result<bool> Statement::step() {
  const int rc = sqlite3_step(stmt_);
  if (rc == SQLITE_ROW) return true;
  if (rc == SQLITE_DONE) return false;
  Error e = sqlite_error(sqlite3_db_handle(stmt_), sqlite3_sql(stmt_));
  sqlite3_reset(stmt_);
  return e;
}

Status Statement::run() {
  Result<bool> stepped = step();
  reset();
  if (!stepped) return std::move(stepped).error();
  return {};
}

Result<Database> Database::open(const std::string& path, int flags, const std::string& vfs) {
  Database d;
  const int rc = sqlite3_open_v2(path.c_str(), &d.db_,
                                 flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE,
                                 vfs.empty() ? nullptr : vfs.c_str());
  if (rc != SQLITE_OK) {
    const int system = d.db_ ? sqlite3_system_errno(d.db_) : 0;
    if (system != 0 && system != ENOSPC) return errno_error("open journal " + path, system);
    return sqlite_error(d.db_, "open");
  }
  sqlite3_extended_result_codes(d.db_, 1);
  sqlite3_busy_timeout(d.db_, 5'000);
  return d;
}

Status Database::exec(const std::string& sql) {
  if (sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr) == SQLITE_OK) return {};
  return sqlite_error(db_, sql.substr(0, 60));
}

Result<int64_t> Database::number(const std::string& sql) {
  BP_ASSIGN(Statement s, Statement::prepare(db_, sql));
  BP_ASSIGN(bool row, s.step());
  return row ? s.int_at(0) : int64_t{0};
}

Result<std::string> Database::text(const std::string& sql) {
  BP_ASSIGN(Statement s, Statement::prepare(db_, sql));
  BP_ASSIGN(bool row, s.step());
  return row ? s.bytes_at(0) : std::string();
}

}  // namespace bp::storage
