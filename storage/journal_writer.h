// JournalWriter: puts commits into transactions of journal.db. The only connection that writes and
// checkpoints (SQLite 3.40 has a race between two such). Thread: one at a time, the journal's
// writer.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "storage/record.h"
#include "storage/seal.h"
#include "storage/sqlite_db.h"

namespace bp::storage {

class JournalWriter {
 public:
  /// `wal_pages`: checkpoint when the log has reached this many.
  static Result<JournalWriter> open(Database db, int wal_pages);
  JournalWriter(JournalWriter&&) = default;

  /// All or nothing; durable when OK: `roots`, one each. After an error the writer must not be used
  /// again.
  Status write(const std::vector<const Commit*>& group, std::vector<std::string>& roots);
  /// Moves the write-ahead log into the file when it is long enough, so that it is used again from
  /// its start. What a long reader holds back is left for the next time.
  Status checkpoint_if_due() { return wal_length() < wal_pages_ ? Status() : checkpoint(); }
  Status checkpoint();
  int wal_length() const { return *wal_length_; }
  /// One transaction around `work`, rolled back when it fails.
  Status transact(const std::function<Status(Database&)>& work);

  /// Goes into the next transaction: a seal over the newest commit.
  void seal(const SigningKey& key, int64_t wall_ms);

  uint64_t last_number() const { return last_number_; }
  const std::string& last_root() const { return last_root_; }

 private:
  JournalWriter() = default;
  Status prepare_all();
  Status put(const Commit& c);
  Status put_record(const Commit& c);
  Status put_live(const Commit& c);
  Status put_rest(const Commit& c);
  Status put_seal();

  Database db_;
  Statement begin_, commit_, log_, live_, drop_live_, secret_, drop_secrets_, meta_, drop_meta_,
      blob_, drop_blob_, seal_;
  int wal_pages_ = 0;
  std::unique_ptr<int> wal_length_;  // told by SQLite after each commit; its address must stay
  RecordEncoder encoder_;
  Record record_;
  uint64_t last_number_ = 0, last_run_number_ = 0;
  std::string last_root_;
  struct Seal {
    uint64_t number;
    int64_t wall_ms;
    std::string public_key, signature;
  };
  std::optional<Seal> pending_seal_;
};

}  // namespace bp::storage
