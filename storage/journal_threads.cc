#include "storage/journal_threads.h"

#include "engine/base/clock.h"

namespace bp::storage {
namespace {

constexpr size_t kGroupMax = 64;  // commits in one transaction
constexpr int64_t kIdleMs = 200;  // then the log is checkpointed, and a due seal written
constexpr int64_t kWorkLimitMs = 60'000;

}  // namespace

SqliteJournal::Writer::Writer(JournalWriter writer, const SqliteJournalOptions& options,
                              Indexer* indexer)
    : writer_(std::move(writer)),
      options_(options),
      indexer_(indexer),
      sealed_(writer_.last_number()),
      sealed_at_ns_(monotonic_ns()) {
  if (options_.threads) thread_ = std::thread([this] { run(); });
}

SqliteJournal::Writer::~Writer() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void SqliteJournal::Writer::push(Commit c, std::function<void(Status)> done) {
  Pending p{std::move(c), std::move(done), {}};
  if (!options_.threads) {
    std::vector<Pending> group;
    group.push_back(std::move(p));
    write(group);
    after();
    return;
  }
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(p));
  }
  wake_.notify_one();
}

Status SqliteJournal::Writer::transact(std::function<Status(Database&)> work_fn) {
  auto answer = std::make_shared<std::promise<Status>>();
  std::future<Status> future = answer->get_future();
  Pending p{{}, [answer](Status s) { answer->set_value(std::move(s)); }, std::move(work_fn)};
  if (!options_.threads) {
    work(p);
    return future.get();
  }
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(p));
  }
  wake_.notify_one();
  if (future.wait_for(std::chrono::milliseconds(kWorkLimitMs)) == std::future_status::timeout)
    return Error{ErrorCode::kDeadlineExceeded, "waited 60 s for the journal's writer", {}};
  return future.get();
}

void SqliteJournal::Writer::run() {
  while (true) {
    std::vector<Pending> group = take();
    if (!group.empty()) {
      if (group.front().work) {
        work(group.front());
      } else {
        write(group);
      }
    } else {
      std::lock_guard lock(mutex_);
      if (stopping_ && queue_.empty()) break;
    }
    after();
  }
  // A clean end is sealed whole; an error here breaks nothing that was acknowledged.
  if (options_.signing_key && !broken_ && sealed_ != writer_.last_number()) {
    writer_.seal(*options_.signing_key, newest_wall_ms);
    Status ignored = writer_.transact([](Database&) { return Status(); });
    (void)ignored;
  }
}

// Empty: nothing came for a while, or the end. Commits up to the first piece of maintenance, or
// that alone.
std::vector<SqliteJournal::Writer::Pending> SqliteJournal::Writer::take() {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, std::chrono::milliseconds(kIdleMs),
                 [this] { return stopping_ || !queue_.empty(); });
  std::vector<Pending> group;
  while (!queue_.empty() && group.size() < kGroupMax) {
    if (queue_.front().work && !group.empty()) break;
    group.push_back(std::move(queue_.front()));
    queue_.pop_front();
    if (group.back().work) break;
  }
  return group;
}

void SqliteJournal::Writer::write(std::vector<Pending>& group) {
  std::vector<const Commit*> commits;
  for (const Pending& p : group) commits.push_back(&p.commit);
  std::vector<std::string> roots;
  if (!broken_) {
    if (Status ok = writer_.write(commits, roots); !ok) broken_ = std::move(ok).error();
  }
  if (!broken_) newest_wall_ms = group.back().commit.wall_ms;
  for (size_t i = 0; i < group.size(); ++i) {
    Pending& p = group[i];
    if (!broken_) {
      indexer_->push({p.commit.number, p.commit.wall_ms, std::move(roots[i]),
                      std::move(p.commit.ended), std::move(p.commit.revived)});
    }
    p.done(broken_ ? Status(*broken_) : Status());
  }
}

// An error of SQLite may have left anything on the disk; others were rolled back.
void SqliteJournal::Writer::work(Pending& p) {
  if (broken_) return p.done(*broken_);
  Status ok = writer_.transact(p.work);
  if (!ok && (ok.error().code == ErrorCode::kDiskFull || ok.error().code == ErrorCode::kJournal))
    broken_ = ok.error();
  p.done(std::move(ok));
}

void SqliteJournal::Writer::after() {
  if (broken_) return;
  bool idle = false;
  if (options_.threads) {
    std::lock_guard lock(mutex_);
    idle = queue_.empty();
  }
  if (options_.signing_key && sealed_ != writer_.last_number()) {
    const int64_t waited_ms = (monotonic_ns() - sealed_at_ns_) / 1'000'000;
    const bool late = waited_ms >= options_.seal_every_ms;
    if (late || writer_.last_number() - sealed_ >= options_.seal_every_commits) {
      writer_.seal(*options_.signing_key, newest_wall_ms);
      sealed_ = writer_.last_number();
      sealed_at_ns_ = monotonic_ns();
      Status ok = late ? writer_.transact([](Database&) { return Status(); }) : Status();
      if (!ok) broken_ = std::move(ok).error();
    }
  }
  const bool early = idle && writer_.wal_length() * 4 >= options_.wal_pages;
  Status ok = broken_ ? Status() : early ? writer_.checkpoint() : writer_.checkpoint_if_due();
  if (!ok) broken_ = std::move(ok).error();
}

}  // namespace bp::storage
