// The thread that keeps search.db.
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "storage/journal_file.h"
#include "storage/journal_threads.h"

namespace bp::storage {
namespace {

constexpr size_t kBatchRuns = 4096;
constexpr int64_t kBatchMs = 200;
constexpr uint64_t kBatchCommits = 10'000;  // then the watermark is written, with or without runs
constexpr size_t kQueuedRunsMax = 100'000;  // beyond, the log is read instead
constexpr int64_t kTaskLimitMs = 60'000;
constexpr uint64_t kAtOnceCommits = 1'000;  // caught up with before open() returns

}  // namespace

SqliteJournal::Indexer::Indexer(SearchWriter writer, JournalReader log, bool threads)
    : writer_(std::move(writer)), log_(std::move(log)), threads_(threads) {}

Result<std::unique_ptr<SqliteJournal::Indexer>> SqliteJournal::Indexer::open(
    const SqliteJournalOptions& options) {
  BP_ASSIGN(JournalReader log, JournalReader::open(options.path, options.vfs));
  BP_ASSIGN(SearchWriter writer, SearchWriter::open(search_path_of(options), options.vfs));
  std::unique_ptr<Indexer> indexer(new Indexer(std::move(writer), std::move(log), options.threads));
  indexer->writer_.use(&indexer->filter);
  BP_TRY(indexer->start());
  return indexer;
}

// An index of another journal, or of a later state of this one (it was restored), is begun anew.
Status SqliteJournal::Indexer::start() {
  BP_ASSIGN(auto range, log_.range());
  newest_ = range.second;
  const uint64_t mark = writer_.watermark();
  if (mark != 0) {
    BP_ASSIGN(std::optional<Record> at, log_.fetch(mark));
    BP_ASSIGN(JournalReader::Anchor anchor, log_.anchor());
    const bool known = at ? at->root == writer_.watermark_root()
                          : mark == anchor.number && anchor.root == writer_.watermark_root();
    if (!known) BP_TRY(writer_.clear());
  }
  if (newest_ != 0) {
    BP_ASSIGN(std::optional<Record> newest, log_.fetch(newest_));
    if (newest) BP_TRY(writer_.load_filter(newest->header.wall_ms));
  }
  BP_TRY(catch_up(threads_ ? kAtOnceCommits : UINT64_MAX));
  if (threads_) thread_ = std::thread([this] { run(); });
  return {};
}

SqliteJournal::Indexer::~Indexer() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void SqliteJournal::Indexer::push(SearchChange change) {
  std::unique_lock lock(mutex_);
  newest_ = change.commit;
  if (lagging_ || error_) return;
  queued_runs_ += change.ended.size() + change.revived.size();
  const bool wake = queued_runs_ >= kBatchRuns;
  if (queued_runs_ > kQueuedRunsMax) {
    queue_.clear();
    queued_runs_ = 0;
    lagging_ = true;
  } else {
    queue_.push_back(std::move(change));
  }
  lock.unlock();
  if (!threads_) {
    if (Status ok = turn(); !ok) error_ = ok.error();
  } else if (wake) {
    wake_.notify_one();
  }
}

void SqliteJournal::Indexer::run() {
  while (true) {
    std::deque<Job> tasks;
    {
      std::unique_lock lock(mutex_);
      wake_.wait_for(lock, std::chrono::milliseconds(kBatchMs), [this] {
        return stopping_ || flush_now_ || !tasks_.empty() || queued_runs_ >= kBatchRuns ||
               (lagging_ && !error_);
      });
      tasks.swap(tasks_);
      flush_now_ = false;
    }
    Status ok = turn();
    for (Job& job : tasks) job.answer->set_value(ok ? job.task(writer_) : ok);
    std::lock_guard lock(mutex_);
    if (!ok && !error_) {
      error_ = ok.error();
      BP_LOG(err, "search.stopped", "error={}", error_->to_string());
    }
    done_.notify_all();
    if (stopping_) return;
  }
}

// What is queued goes into the index, or, when it lags, what the log holds.
Status SqliteJournal::Indexer::turn() {
  {
    std::lock_guard lock(mutex_);
    if (error_) return *error_;
  }
  std::deque<SearchChange> changes;
  bool lagging = false, stopping = false;
  {
    std::lock_guard lock(mutex_);
    changes.swap(queue_);
    queued_runs_ = 0;
    lagging = lagging_;
    stopping = stopping_;
  }
  for (SearchChange& c : changes) writer_.add(std::move(c));
  if (lagging && !stopping) return catch_up(UINT64_MAX);
  const bool rows = writer_.pending_runs() != 0;
  if (rows || stopping || writer_.added_up_to() - writer_.watermark() >= kBatchCommits)
    return flush();
  searchable_ = writer_.added_up_to();
  return {};
}

Status SqliteJournal::Indexer::flush() {
  BP_TRY(writer_.flush());
  searchable_ = writer_.watermark();
  return {};
}

Status SqliteJournal::Indexer::catch_up(uint64_t limit_commits) {
  const uint64_t end_at =
      limit_commits == UINT64_MAX ? UINT64_MAX : writer_.added_up_to() + limit_commits;
  while (true) {
    uint64_t target = 0;
    {
      std::lock_guard lock(mutex_);
      if (writer_.added_up_to() >= newest_) lagging_ = false;
      if (!lagging_ || stopping_) break;
      target = newest_;
    }
    if (writer_.added_up_to() >= end_at) return flush();
    const uint64_t to = std::min({target, writer_.added_up_to() + 512, end_at});
    BP_TRY(log_.each_record(writer_.added_up_to() + 1, to, [&](const Record& r) -> Status {
      BP_ASSIGN(SearchChange change, search_change(r));
      writer_.add(std::move(change));
      return writer_.pending_runs() >= kBatchRuns ? flush() : Status();
    }));
    writer_.skip_to(to);  // records before the anchor are gone
  }
  BP_TRY(flush());
  filter.set_complete(true);
  return {};
}

Status SqliteJournal::Indexer::run_task(Task task) {
  if (!threads_) return task(writer_);
  auto answer = std::make_shared<std::promise<Status>>();
  std::future<Status> future = answer->get_future();
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back({std::move(task), answer});
  }
  wake_.notify_one();
  if (future.wait_for(std::chrono::milliseconds(kTaskLimitMs)) == std::future_status::timeout)
    return Error{ErrorCode::kDeadlineExceeded, "waited 60 s for the search index", {}};
  return future.get();
}

Status SqliteJournal::Indexer::forget(std::vector<uint64_t> runs) {
  return run_task([runs = std::move(runs)](SearchWriter& w) { return w.remove(runs); });
}

Status SqliteJournal::Indexer::rebuild() {
  return run_task([this](SearchWriter& w) -> Status {
    BP_TRY(w.clear());
    {
      std::lock_guard lock(mutex_);
      searchable_ = 0;
      lagging_ = true;
      queue_.clear();
      queued_runs_ = 0;
    }
    return threads_ ? Status() : catch_up(UINT64_MAX);
  });
}

Status SqliteJournal::Indexer::wait(int64_t timeout_ms) {
  std::unique_lock lock(mutex_);
  const uint64_t target = newest_;
  flush_now_ = true;
  wake_.notify_one();
  const bool there = done_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                                    [&] { return searchable_ >= target || error_; });
  if (error_) return *error_;
  if (there) return {};
  return Error{ErrorCode::kDeadlineExceeded,
               "the search index has reached commit " + std::to_string(searchable_) + " of " +
                   std::to_string(target) + " after " + std::to_string(timeout_ms) + " ms",
               {}};
}

std::optional<Error> SqliteJournal::Indexer::error() {
  std::lock_guard lock(mutex_);
  return error_;
}

}  // namespace bp::storage
