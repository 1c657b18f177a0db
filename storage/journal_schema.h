// Schema of journal.db (version 2) and the way to it from every version that was ever released.
// The version is PRAGMA user_version; the file carries PRAGMA application_id. Before an older file
// is migrated a copy of it is written beside it: PATH.before-vN, N the version migrated to.
#pragma once
#include <string>

#include "storage/record.h"
#include "storage/sqlite_db.h"

namespace bp::storage {

inline constexpr int kJournalApplicationId = 0x62706a31;  // "bpj1"
inline constexpr int kJournalVersion = 2;

/// Creates, or brings to the newest version. kJournal: another program's file, one that a newer
/// release wrote, or one that cannot be converted.
Status prepare_schema(Database& db, const std::string& path);
/// The tables alone, in an open transaction: for files that are filled at once (backups, archives).
Status create_schema(Database& db);
/// Version 1 (rows of runs, stages, timers, events) to version 2, in an open transaction.
Status migrate_from_v1(Database& db);

inline constexpr const char* kInsertRecord =
    "INSERT INTO log(number, replay_from, wall_ms, count, last_run_number, root, body) "
    "VALUES(?, ?, ?, ?, ?, ?, ?)";
/// Runs `insert`, prepared from kInsertRecord.
Status put_record(Statement& insert, const Record& record);

/// The journal's own facts: incarnation, file_identity, anchor_number, anchor_root. Empty: unknown.
Result<std::string> fact(Database& db, const std::string& key);
Status put_fact(Database& db, const std::string& key, const std::string& value);

}  // namespace bp::storage
