// SqliteJournal: the journal in journal.db (SQLite, WAL, synchronous FULL), its search index in
// search.db beside it.
// One thread does all writes and checkpoints of journal.db: it drains its queue into one
// transaction (group commit) and then runs the callbacks, in order, on itself. A second thread
// keeps the index. Reads go through read-only connections of the thread that opened. After any
// write error the journal is broken: that commit and every later one fail with kDiskFull or
// kJournal and nothing is tried again; reads still work. The destructor commits what is queued,
// then ends both threads.
#pragma once
#include <memory>
#include <string>

#include "storage/journal.h"
#include "storage/seal.h"
#include "storage/sqlite_db.h"

namespace bp::storage {

struct SqliteJournalOptions {
  std::string path;
  std::string search_path;  // empty: search.db beside journal.db, else PATH.search
  /// Size of the write-ahead log, written full of zeroes beforehand and reused: a commit that grows
  /// the file costs twice. Also the checkpoint interval, which bounds how long a commit can be held
  /// up: checkpoints run on the writer's thread after the callbacks, and their errors break the
  /// journal too. When nothing is to do, they run early. See tests/bench/README.md for the choice.
  int wal_pages = 250;
  int page_bytes = 16384;  // of a new file
  /// A registered SQLite VFS for all files; the log is then not grown beforehand.
  std::string vfs;
  /// False: commit() does everything inline and returns after `done` (the simulation).
  bool threads = true;
  std::optional<SigningKey> signing_key;
  uint64_t seal_every_commits = 1000;
  int64_t seal_every_ms = 10'000;
  /// A copy or restore takes an incarnation of at least this (what nodes report, plus one).
  uint64_t least_incarnation = 0;
};

class SqliteJournal final : public Journal {
 public:
  /// Creates or opens, migrates, and takes note of a copy or restore (the incarnation then grows).
  /// kJournal: damaged, another program's, or newer. kDiskFull, kPermission, kNotFound (its
  /// folder).
  static Result<std::unique_ptr<SqliteJournal>> open(SqliteJournalOptions options);
  ~SqliteJournal() override;

  void commit(Commit c, std::function<void(Status)> done) override;
  Result<Recovered> recover() override;
  Status read_log(uint64_t from, uint64_t to,
                  const std::function<Status(const LogRecord&)>& each) override;
  Result<std::vector<Entry>> history(uint64_t run_number, uint64_t last_commit,
                                     uint64_t after_run_seq) override;
  uint64_t searchable_up_to() override;
  Result<std::vector<EndedRow>> ended(const EndedQuery& query) override;
  Result<std::optional<EndedRow>> ended_by_number(uint64_t run_number) override;
  Result<std::optional<EndedRow>> ended_by_key(const std::string& idempotency_key) override;
  Result<std::map<int, uint64_t>> ended_counts() override;
  Result<std::optional<uint64_t>> number_of_old_id(const std::string& run_id) override;
  Result<std::map<std::string, std::string>> secrets_of(uint64_t run_number) override;
  Result<std::optional<std::string>> blob(const std::string& hash) override;
  Result<std::vector<std::string>> check(const CheckOptions& options) override;

  const SqliteJournalOptions& options() const { return options_; }
  /// For maintenance, from any thread: one transaction on the writer, between commits. Keep it
  /// short. Its error breaks nothing unless it is one of the disk. kDeadlineExceeded after 60 s.
  Status on_writer(std::function<Status(Database&)> work);
  /// Takes runs out of the search (archived, dropped). Any thread.
  Status forget(const std::vector<uint64_t>& runs);
  /// Throws the index away and reads it from the log again, in the background. Any thread.
  Status rebuild_search();
  /// Waits until the index contains everything committed before. kDeadlineExceeded.
  Status wait_searchable(int64_t timeout_ms);

 private:
  class Writer;
  class Indexer;
  struct Reads;
  explicit SqliteJournal(SqliteJournalOptions options);
  SqliteJournalOptions options_;
  std::unique_ptr<Reads> reads_;
  std::unique_ptr<Indexer> indexer_;
  std::unique_ptr<Writer> writer_;  // goes first: it feeds the indexer
};

}  // namespace bp::storage
