#include "storage/sqlite_schema.h"

#include <unistd.h>

namespace bp::storage {
namespace {

constexpr const char* kVersion1 = R"sql(
CREATE TABLE runs(
  run_id TEXT NOT NULL PRIMARY KEY CHECK(length(run_id) > 0),
  run_number INTEGER NOT NULL UNIQUE CHECK(run_number > 0),
  name TEXT NOT NULL CHECK(length(name) > 0),
  live INTEGER NOT NULL CHECK(live IN (0, 1)),
  state INTEGER NOT NULL CHECK(state > 0),
  epoch_counter INTEGER NOT NULL CHECK(epoch_counter >= 0),
  created_wall_ms INTEGER NOT NULL,
  updated_wall_ms INTEGER NOT NULL,
  idempotency_key TEXT NOT NULL,
  body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX runs_live_name ON runs(name) WHERE live = 1;
CREATE UNIQUE INDEX runs_idempotency_key ON runs(idempotency_key) WHERE idempotency_key <> '';
CREATE INDEX runs_name ON runs(name, run_number);
CREATE INDEX runs_live ON runs(run_number) WHERE live = 1;

CREATE TABLE stages(
  run_id TEXT NOT NULL REFERENCES runs(run_id),
  stage TEXT NOT NULL CHECK(length(stage) > 0),
  map_index INTEGER NOT NULL CHECK(map_index >= 0),
  state INTEGER NOT NULL CHECK(state > 0),
  body BLOB NOT NULL,
  PRIMARY KEY(run_id, stage, map_index)
) STRICT;

CREATE TABLE timers(
  run_id TEXT NOT NULL REFERENCES runs(run_id),
  stage TEXT NOT NULL,
  map_index INTEGER NOT NULL CHECK(map_index >= 0),
  kind INTEGER NOT NULL CHECK(kind > 0),
  epoch_counter INTEGER NOT NULL CHECK(epoch_counter >= 0),
  due_boot_ms INTEGER NOT NULL,
  remaining_ms INTEGER NOT NULL CHECK(remaining_ms >= 0),
  boot_id TEXT NOT NULL,
  PRIMARY KEY(run_id, stage, map_index, kind)
) STRICT;

CREATE TABLE events(
  seq INTEGER PRIMARY KEY CHECK(seq > 0),
  run_id TEXT NOT NULL,
  run_seq INTEGER NOT NULL CHECK(run_seq > 0),
  wall_ms INTEGER NOT NULL,
  type TEXT NOT NULL CHECK(length(type) > 0),
  salt BLOB NOT NULL,
  body BLOB,
  body_hash BLOB NOT NULL CHECK(length(body_hash) = 32),
  link BLOB NOT NULL CHECK(length(link) = 32)
) STRICT;
CREATE UNIQUE INDEX events_of_run ON events(run_id, run_seq);

CREATE TABLE commits(
  last_seq INTEGER PRIMARY KEY,
  root BLOB NOT NULL CHECK(length(root) = 32)
) STRICT;

CREATE TABLE secrets(
  run_id TEXT NOT NULL,
  name TEXT NOT NULL,
  sealed BLOB NOT NULL,
  PRIMARY KEY(run_id, name)
) STRICT;

CREATE TABLE meta(
  key TEXT NOT NULL PRIMARY KEY,
  value BLOB NOT NULL
) STRICT;
)sql";

Status copy_first(Database& db, const std::string& path, int to_version) {
  const std::string copy = path + ".before-v" + std::to_string(to_version);
  if (::access(copy.c_str(), F_OK) == 0) return {};  // an earlier try was cut off after its copy
  const std::string partial = copy + ".partial";
  ::unlink(partial.c_str());
  BP_ASSIGN(Statement s, Statement::prepare(db.get(), "VACUUM INTO ?"));
  s.text(partial);
  BP_TRY(s.run());
  if (::rename(partial.c_str(), copy.c_str()) != 0) return errno_error("rename " + partial, errno);
  return {};
}

}  // namespace

const std::vector<Migration>& migrations() {
  static const std::vector<Migration> list = {{1, kVersion1}};
  return list;
}

Status migrate(Database& db, const std::string& path, const std::vector<Migration>& list) {
  BP_ASSIGN(int64_t application, db.number("PRAGMA application_id"));
  BP_ASSIGN(int64_t tables, db.number("SELECT count(*) FROM sqlite_schema"));
  BP_ASSIGN(int64_t version, db.number("PRAGMA user_version"));
  if (application != kApplicationId && (application != 0 || tables != 0 || version != 0)) {
    return Error{ErrorCode::kJournal, path + " is a database, but not a journal of bp-daemon",
                 "Point --state-dir at the right folder"};
  }
  const int newest = list.back().to_version;
  if (version > newest) {
    return Error{ErrorCode::kJournal,
                 path + " has schema version " + std::to_string(version) +
                     "; this release knows up to " + std::to_string(newest),
                 "Start the newer release that wrote it"};
  }
  bool copied = false;
  for (const Migration& m : list) {
    if (m.to_version <= version) continue;
    if (version > 0 && !copied) BP_TRY(copy_first(db, path, m.to_version));
    copied = true;
    BP_TRY(db.exec("BEGIN IMMEDIATE"));
    Status done = db.exec(m.sql);
    if (done.ok()) done = db.exec("PRAGMA application_id = " + std::to_string(kApplicationId));
    if (done.ok()) done = db.exec("PRAGMA user_version = " + std::to_string(m.to_version));
    if (done.ok()) done = db.exec("COMMIT");
    if (!done.ok()) {
      // The first error is the one that counts; a rollback that also fails changes nothing on disk.
      Status ignored = db.exec("ROLLBACK");
      (void)ignored;
      return std::move(done).error().with_context("migrate to schema " +
                                                  std::to_string(m.to_version));
    }
  }
  return {};
}

}  // namespace bp::storage
