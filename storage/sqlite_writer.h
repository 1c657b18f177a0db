// SqliteWriter: puts groups of batches into one transaction. Thread: the store's writer only.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "storage/sqlite_db.h"
#include "storage/store.h"

namespace bp::storage {

class SqliteWriter {
 public:
  /// `wal_pages`: checkpoint when the log has reached this many.
  static Result<SqliteWriter> open(Database db, int wal_pages);
  SqliteWriter(SqliteWriter&&) = default;

  /// All or nothing; durable when OK. After an error the writer must not be used again.
  Status write(const std::vector<const Batch*>& group);
  /// Moves the log into the file when it is long enough, so that it can be reused from its start.
  /// What a long reader holds back is left for the next time.
  Status checkpoint_if_due();

 private:
  SqliteWriter() = default;
  Status put(const Batch& batch);
  Status put_events(const Batch& batch);
  Status put_rows(const Batch& batch);
  Status put_timers(const Batch& batch);
  Status put_rest(const Batch& batch);
  Result<std::string> last_link(const std::string& run_id);
  Status seal();

  Database db_;
  Statement begin_, commit_, event_, link_, run_, stage_, timer_, drop_timer_, secret_,
      drop_secrets_, meta_, root_;
  int wal_pages_ = 0;
  std::unique_ptr<int>
      wal_length_;  // pages, told by SQLite after each commit; its address must stay
  uint64_t last_seq_ = 0;
  std::string last_root_;
  std::map<std::string, std::string> links_;  // newest link of runs written lately
  std::vector<std::string> links_of_commit_;
};

}  // namespace bp::storage
