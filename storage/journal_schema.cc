#include "storage/journal_schema.h"

#include <unistd.h>

namespace bp::storage {
namespace {

// The order of the columns keeps the small ones before the body, which spills to overflow pages.
constexpr const char* kTables = R"sql(
CREATE TABLE log(
  number INTEGER PRIMARY KEY CHECK(number > 0),
  replay_from INTEGER NOT NULL CHECK(replay_from BETWEEN 0 AND number),
  wall_ms INTEGER NOT NULL,
  count INTEGER NOT NULL CHECK(count >= 0),
  last_run_number INTEGER NOT NULL CHECK(last_run_number >= 0),
  root BLOB NOT NULL CHECK(length(root) = 32),
  body BLOB NOT NULL CHECK(length(body) > 0)
) STRICT;

CREATE TABLE live(
  run_number INTEGER PRIMARY KEY CHECK(run_number > 0),
  run_id TEXT NOT NULL CHECK(length(run_id) > 0),
  name TEXT NOT NULL,
  state INTEGER NOT NULL CHECK(state > 0),
  run_seq INTEGER NOT NULL CHECK(run_seq > 0),
  last_commit INTEGER NOT NULL CHECK(last_commit > 0),
  actor INTEGER NOT NULL CHECK(actor BETWEEN 2 AND 7),
  by_boot_ms INTEGER NOT NULL CHECK(by_boot_ms >= 0),
  why TEXT NOT NULL CHECK(length(why) > 0),
  body BLOB NOT NULL,
  CHECK(by_boot_ms > 0 OR actor IN (5, 6, 7))
) STRICT;

CREATE TABLE secrets(
  run_number INTEGER NOT NULL,
  name TEXT NOT NULL,
  sealed BLOB NOT NULL,
  PRIMARY KEY(run_number, name)
) STRICT;

CREATE TABLE meta(
  key TEXT NOT NULL PRIMARY KEY,
  value BLOB NOT NULL
) STRICT;

CREATE TABLE blobs(
  hash TEXT NOT NULL PRIMARY KEY CHECK(length(hash) > 0),
  body BLOB NOT NULL
) STRICT;

CREATE TABLE seals(
  number INTEGER PRIMARY KEY CHECK(number > 0),
  wall_ms INTEGER NOT NULL,
  public_key BLOB NOT NULL CHECK(length(public_key) = 32),
  signature BLOB NOT NULL CHECK(length(signature) = 64)
) STRICT;

CREATE TABLE archives(
  path TEXT NOT NULL PRIMARY KEY,
  wall_ms INTEGER NOT NULL,
  first_run INTEGER NOT NULL,
  last_run INTEGER NOT NULL,
  runs INTEGER NOT NULL,
  done INTEGER NOT NULL CHECK(done IN (0, 1))
) STRICT;

CREATE TABLE summaries(
  run_number INTEGER PRIMARY KEY,
  last_commit INTEGER NOT NULL,
  row BLOB NOT NULL
) STRICT;

CREATE TABLE old_ids(
  run_id TEXT NOT NULL PRIMARY KEY,
  run_number INTEGER NOT NULL
) STRICT;

CREATE TABLE facts(
  key TEXT NOT NULL PRIMARY KEY,
  value BLOB NOT NULL
) STRICT;
)sql";

Status copy_first(Database& db, const std::string& path) {
  const std::string copy = path + ".before-v" + std::to_string(kJournalVersion);
  if (::access(copy.c_str(), F_OK) == 0) return {};  // an earlier try was cut off after its copy
  const std::string partial = copy + ".partial";
  ::unlink(partial.c_str());
  BP_ASSIGN(Statement s, Statement::prepare(db.get(), "VACUUM INTO ?"));
  s.text(partial);
  BP_TRY(s.run());
  if (::rename(partial.c_str(), copy.c_str()) != 0) return errno_error("rename " + partial, errno);
  return {};
}

Status check_application(Database& db, const std::string& path, int64_t version) {
  BP_ASSIGN(int64_t application, db.number("PRAGMA application_id"));
  BP_ASSIGN(int64_t tables, db.number("SELECT count(*) FROM sqlite_schema"));
  if (application != kJournalApplicationId && (application != 0 || tables != 0 || version != 0)) {
    return Error{ErrorCode::kJournal, path + " is a database, but not a journal of bp-daemon",
                 "Point --state-dir at the right folder"};
  }
  if (version > kJournalVersion) {
    return Error{ErrorCode::kJournal,
                 path + " has schema version " + std::to_string(version) +
                     "; this release knows up to " + std::to_string(kJournalVersion),
                 "Start the newer release that wrote it"};
  }
  return {};
}

}  // namespace

Status create_schema(Database& db) {
  BP_TRY(db.exec(kTables));
  BP_TRY(db.exec("PRAGMA application_id = " + std::to_string(kJournalApplicationId)));
  return db.exec("PRAGMA user_version = " + std::to_string(kJournalVersion));
}

Status prepare_schema(Database& db, const std::string& path) {
  BP_ASSIGN(int64_t version, db.number("PRAGMA user_version"));
  BP_TRY(check_application(db, path, version));
  if (version == kJournalVersion) return {};
  if (version > 0) BP_TRY(copy_first(db, path));
  BP_TRY(db.exec("BEGIN IMMEDIATE"));
  Status done = version == 1 ? migrate_from_v1(db) : create_schema(db);
  if (done.ok()) done = db.exec("COMMIT");
  if (done.ok()) return {};
  // The first error counts; a rollback that also fails changes nothing on disk.
  sqlite3_exec(db.get(), "ROLLBACK", nullptr, nullptr, nullptr);
  return std::move(done).error().with_context("migrate " + path + " to schema " +
                                              std::to_string(kJournalVersion));
}

Status put_record(Statement& insert, const Record& record) {
  const RecordHeader& h = record.header;
  insert.num(int64_t(h.number))
      .num(int64_t(h.replay_from))
      .num(h.wall_ms)
      .num(int64_t(h.count))
      .num(int64_t(h.last_run_number))
      .blob(record.root)
      .blob(record.body);
  return insert.run();
}

Result<std::string> fact(Database& db, const std::string& key) {
  BP_ASSIGN(Statement s, Statement::prepare(db.get(), "SELECT value FROM facts WHERE key = ?"));
  s.text(key);
  BP_ASSIGN(bool row, s.step());
  return row ? s.bytes_at(0) : std::string();
}

Status put_fact(Database& db, const std::string& key, const std::string& value) {
  BP_ASSIGN(Statement s, Statement::prepare(db.get(),
                                            "INSERT INTO facts(key, value) VALUES(?, ?) ON "
                                            "CONFLICT(key) DO UPDATE SET value = excluded.value"));
  s.text(key).blob(value);
  return s.run();
}

}  // namespace bp::storage
