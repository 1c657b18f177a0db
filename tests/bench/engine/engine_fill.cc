// Fills a journal with ended runs as fast as it takes them, without a daemon: what is measured
// afterwards is measured on a large database.
#include <CLI/CLI.hpp>
#include <condition_variable>
#include <cstdio>
#include <mutex>

#include "bp/v1/journal.pb.h"
#include "storage/sqlite_journal.h"

using namespace bp;

namespace {
constexpr uint64_t kRunsPerCommit = 2'000;
constexpr uint64_t kInFlight = 4;

storage::EndedRow row_of(uint64_t n, uint64_t commit) {
  storage::EndedRow r;
  r.run_number = n;
  r.run_id = "r" + std::to_string(n) + "-filled";
  r.name = r.run_id;
  r.workflow = n % 10 ? "six" : "other";
  r.state = n % 100 ? v1::RUN_STATE_SUCCEEDED : v1::RUN_STATE_FAILED;
  r.created_wall_ms = 1'700'000'000'000 + static_cast<int64_t>(n);
  r.ended_wall_ms = r.created_wall_ms + 20;
  if (n % 100 == 0) r.error_code = "BP_UNAVAILABLE";
  r.labels = {{"owner", "o" + std::to_string(n % 1000)}};
  r.last_commit = commit;
  return r;
}
}  // namespace

int main(int argc, char** argv) {
  std::string path;
  uint64_t runs = 1'000'000;
  CLI::App app{"Fills a journal with ended runs"};
  app.add_option("--journal", path, "a new STATE_DIR/journal.db")->required();
  app.add_option("--runs", runs);
  CLI11_PARSE(app, argc, argv);
  storage::SqliteJournalOptions options;
  options.path = path;
  auto journal = storage::SqliteJournal::open(std::move(options));
  if (!journal.ok()) {
    fprintf(stderr, "engine_fill: %s\n", journal.error().to_string().c_str());
    return 1;
  }
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t done = 0;
  bool failed = false;
  uint64_t number = 0;
  for (uint64_t n = 1; n <= runs;) {
    storage::Commit c;
    c.number = c.replay_from = ++number;
    c.wall_ms = 1'700'000'000'000;
    for (uint64_t i = 0; i < kRunsPerCommit && n <= runs; ++i, ++n) {
      v1::Event event;
      event.mutable_submitted()->set_run_id("r" + std::to_string(n) + "-filled");
      event.mutable_submitted()->set_run_number(n);
      storage::Entry entry;
      entry.run_number = n;
      entry.run_seq = 1;
      entry.wall_ms = c.wall_ms;
      entry.type = v1::Event::kSubmitted;
      entry.next.actor = storage::Actor::kNobody;
      entry.body = event.SerializeAsString();
      c.entries.push_back(std::move(entry));
      c.ended.push_back(row_of(n, number));
    }
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return number - done <= kInFlight || failed; });
      if (failed) return 1;
    }
    (*journal)->commit(std::move(c), [&](Status status) {
      std::lock_guard lock(mutex);
      ++done;
      failed |= !status.ok();
      if (!status.ok()) fprintf(stderr, "engine_fill: %s\n", status.error().to_string().c_str());
      changed.notify_all();
    });
  }
  Status found = (*journal)->wait_searchable(1'800'000);
  if (!found.ok()) {
    fprintf(stderr, "engine_fill: %s\n", found.error().to_string().c_str());
    return 1;
  }
  return failed;
}
