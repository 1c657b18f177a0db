// Opening journal.db for writing: creation, schema, incarnation, the write-ahead log grown
// beforehand. Thread: the opener's.
#pragma once
#include "storage/sqlite_db.h"
#include "storage/sqlite_journal.h"

namespace bp::storage {

/// Everything before the connections that stay.
Status prepare_journal_file(const SqliteJournalOptions& options);
/// The writing connection.
Result<Database> open_journal_for_writing(const SqliteJournalOptions& options);
/// The names of new files are durable only when their folder is.
Status sync_folder_of(const std::string& path);
std::string search_path_of(const SqliteJournalOptions& options);

}  // namespace bp::storage
