// NewFile: a journal file that is being made under a temporary name, and gets its own only when it
// is whole. Removed when it is not finished. Thread: one at a time.
#pragma once
#include "storage/maintenance.h"
#include "storage/record.h"
#include "storage/sqlite_db.h"

namespace bp::storage {

class NewFile {
 public:
  /// kAlreadyExists. Creates the tables.
  static Result<NewFile> create(const std::string& path);
  NewFile(NewFile&& o) noexcept
      : path_(std::move(o.path_)), db_(std::move(o.db_)), insert_(std::move(o.insert_)) {
    o.path_.clear();
  }
  ~NewFile();

  Database& db() { return db_; }
  std::string partial() const { return path_ + ".partial"; }
  Status begin() { return db_.exec("BEGIN"); }
  Status commit() { return db_.exec("COMMIT"); }
  Status add(const Record& record);
  /// All rows of a table, from `source` within its transaction. Returns their bytes, roughly.
  Result<int64_t> copy_table(Database& source, const std::string& table);
  /// Syncs and renames.
  Status finish();

 private:
  NewFile() = default;
  std::string path_;  // empty: finished, or moved from
  Database db_;
  Statement insert_;
};

/// Tables beside the log that a backup and an export hold, facts last.
extern const char* const kSideTables[8];

inline constexpr const char* kInsertSummary =
    "INSERT INTO summaries(run_number, last_commit, row) VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET "
    "last_commit = excluded.last_commit, row = excluded.row";
class JournalReader;
/// The commits that hold a run's entries, oldest first. kNotFound: some were dropped.
Result<std::vector<uint64_t>> commits_of(JournalReader& source, uint64_t run,
                                         uint64_t last_commit);

/// Sleeps so that `bytes` more keep the pace. kCancelled.
class Pacer {
 public:
  explicit Pacer(Pace pace);
  Status spend(int64_t bytes);

 private:
  const Pace pace_;
  int64_t begin_ns_;
  int64_t spent_ = 0;
};

/// verify() of an open file; `chain` false: of a file that holds parts of records.
Result<VerifyReport> verify_file(const std::string& path, const std::string& public_key,
                                 bool chain);

}  // namespace bp::storage
