// SqliteStore: the journal in one SQLite file (WAL, synchronous FULL).
// One thread does all writes and checkpoints: it drains its queue into one transaction (group
// commit) and then runs the callbacks, in order, on itself. Reads go through one read-only
// connection. After any write error the store is broken: that commit and every later one fail with
// kDiskFull or kJournal and nothing is tried again; reads still work. Thread: any. The destructor
// commits what is queued, then ends the thread.
#pragma once
#include <memory>
#include <string>

#include "storage/store.h"

namespace bp::storage {

struct SqliteOptions {
  std::string path;
  /// Size of the write-ahead log, written full of zeroes beforehand and reused: a commit that grows
  /// the file costs twice. Also the checkpoint interval, which bounds how long a commit can be held
  /// up: checkpoints run on the writer's thread after the callbacks, and their errors break the
  /// store too.
  int wal_pages = 1000;
};

class SqliteStore final : public Store {
 public:
  /// Creates or opens, migrates, and takes note of a copy or restore (the incarnation then grows).
  /// kJournal: damaged, another program's, or newer. kDiskFull, kPermission, kNotFound (its
  /// folder).
  static Result<std::unique_ptr<SqliteStore>> open(SqliteOptions options);
  ~SqliteStore() override;

  void commit(Batch batch, std::function<void(Status)> done) override;
  Result<LiveState> load_live() override;
  Result<RunRow> find_run(const std::string& id_or_name) override;
  Result<std::optional<RunRow>> find_idempotency_key(const std::string& key) override;
  Result<std::vector<RunRow>> list_runs(bool all, uint32_t limit) override;
  Result<std::vector<StageRow>> stages_of(const std::string& run_id) override;
  Result<std::vector<EventRow>> events_of(const std::string& run_id, uint64_t after_run_seq,
                                          uint32_t limit) override;
  Result<std::map<std::string, std::string>> secrets_of(const std::string& run_id) override;
  Result<std::vector<std::string>> check() override;

 private:
  struct Reader;
  struct WriterThread;
  SqliteStore();
  std::unique_ptr<Reader> reader_;
  std::unique_ptr<WriterThread> writer_;
};

}  // namespace bp::storage
