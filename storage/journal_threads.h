// The two threads of SqliteJournal. Private to it.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <future>
#include <thread>

#include "storage/journal_reader.h"
#include "storage/journal_writer.h"
#include "storage/search_index.h"
#include "storage/sqlite_journal.h"

namespace bp::storage {

/// Keeps search.db behind the log. Errors end it: they are given to whoever asks the index.
class SqliteJournal::Indexer {
 public:
  /// Catches up with the log before it returns, unless that is far: then in the background.
  static Result<std::unique_ptr<Indexer>> open(const SqliteJournalOptions& options);
  ~Indexer();

  /// In the order of the commits. Thread: the writer.
  void push(SearchChange change);
  Status forget(std::vector<uint64_t> runs);
  Status rebuild();
  uint64_t searchable() const { return searchable_; }
  Status wait(int64_t timeout_ms);
  std::optional<Error> error();

  KeyFilter filter;

 private:
  using Task = std::function<Status(SearchWriter&)>;
  struct Job {
    Task task;
    std::shared_ptr<std::promise<Status>> answer;
  };
  Indexer(SearchWriter writer, JournalReader log, bool threads);
  Status start();
  void run();
  Status turn();
  Status catch_up(uint64_t limit_commits);
  Status flush();
  Status run_task(Task task);

  SearchWriter writer_;  // the indexer's thread only, as log_
  JournalReader log_;
  const bool threads_;
  std::atomic<uint64_t> searchable_{0};
  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_, done_;
  std::deque<SearchChange> queue_;
  std::deque<Job> tasks_;
  size_t queued_runs_ = 0;
  uint64_t newest_ = 0;  // commit
  bool lagging_ = true;  // reads the log instead of the queue
  bool stopping_ = false, flush_now_ = false;
  std::optional<Error> error_;
  std::thread thread_;
};

class SqliteJournal::Writer {
 public:
  Writer(JournalWriter writer, const SqliteJournalOptions& options, Indexer* indexer);
  ~Writer();
  void push(Commit c, std::function<void(Status)> done);
  Status transact(std::function<Status(Database&)> work);
  std::atomic<int64_t> newest_wall_ms{0};

 private:
  struct Pending {
    Commit commit;
    std::function<void(Status)> done;
    std::function<Status(Database&)> work;  // instead of a commit
  };
  void run();
  void write(std::vector<Pending>& group);
  void work(Pending& p);
  void after();
  std::vector<Pending> take();

  JournalWriter writer_;
  const SqliteJournalOptions& options_;
  Indexer* indexer_;
  std::optional<Error> broken_;
  uint64_t sealed_ = 0;
  int64_t sealed_at_ns_ = 0;
  std::mutex mutex_;  // guards queue_, stopping_
  std::condition_variable wake_;
  std::deque<Pending> queue_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace bp::storage
