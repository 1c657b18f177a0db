// A folder with a journal, and commits whose content follows from their number.
#pragma once
#include <catch2/catch.hpp>
#include <future>

#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "storage/maintenance.h"
#include "storage/sqlite_journal.h"

namespace bp::storage::test {

struct Folder {
  std::string path = "/tmp/" + random_id("bp-fault");
  Folder() { REQUIRE(make_dirs(path).ok()); }
  ~Folder() { CHECK(remove_tree(path).ok()); }
  std::string db() const { return path + "/journal.db"; }
};

inline constexpr int64_t kWall = 1'700'000'000'000;
inline constexpr uint64_t kRuns = 5;       // five runs take turns
inline constexpr uint64_t kRunLength = 4;  // each entry of a run ends it when it is its fourth

/// Commit n holds one entry: number (n-1)/5 + 1 of a generation of five runs; the fourth ends it.
inline Commit numbered(uint64_t n, size_t body_bytes = 200) {
  const uint64_t turn = (n - 1) % kRuns, round = (n - 1) / kRuns;
  const uint64_t run = round / kRunLength * kRuns + turn + 1, seq = round % kRunLength + 1;
  Commit c;
  c.number = n;
  c.replay_from = n > 50 ? n - 50 : 1;
  c.wall_ms = kWall + int64_t(n);
  Entry e;
  e.run_number = run;
  e.run_seq = seq;
  e.previous_commit = seq == 1 ? 0 : n - kRuns;
  e.wall_ms = c.wall_ms;
  e.type = 15;
  e.next = seq == kRunLength ? Next{Actor::kNobody, 0} : Next{Actor::kTimer, int64_t(n)};
  e.body = "event " + std::to_string(n) + std::string(body_bytes, 'x');
  c.entries = {e};
  if (seq == kRunLength) {
    EndedRow r;
    r.run_number = run;
    r.run_id = "r" + std::to_string(run) + "-abcdef";
    r.name = "run-" + std::to_string(run);
    r.state = run % 10 == 0 ? 8 : 5;
    r.created_wall_ms = kWall + int64_t(n) - 15;
    r.ended_wall_ms = c.wall_ms;
    r.idempotency_key = "key-" + std::to_string(run);
    r.labels = {{"turn", std::to_string(turn)}};
    r.last_commit = n;
    c.ended = {r};
    c.drop_live = {run};
  } else if (seq == 2) {
    LiveRow r;
    r.run_number = run;
    r.run_id = "r" + std::to_string(run) + "-abcdef";
    r.state = 2;
    r.run_seq = seq;
    r.last_commit = n;
    r.next = e.next;
    r.why = "a test";
    r.body = e.body;
    c.put_live = {r};
  }
  c.put_meta["newest"] = std::to_string(n);
  return c;
}

inline Status commit(Journal& journal, Commit c) {
  auto done = std::make_shared<std::promise<Status>>();
  auto future = done->get_future();
  journal.commit(std::move(c), [done](Status s) { done->set_value(std::move(s)); });
  REQUIRE(future.wait_for(std::chrono::seconds(20)) == std::future_status::ready);
  return future.get();
}

inline SqliteJournalOptions options(const std::string& path) {
  SqliteJournalOptions o;
  o.path = path;
  o.wal_pages = 40;
  o.page_bytes = 4096;
  return o;
}

inline std::unique_ptr<SqliteJournal> open_ok(const std::string& path) {
  auto j = SqliteJournal::open(options(path));
  if (!j.ok()) FAIL(j.error().to_string());
  return std::move(j).value();
}

/// Commits from..to, all in flight at once.
inline void fill(SqliteJournal& journal, uint64_t from, uint64_t to) {
  for (uint64_t n = from; n < to; ++n) journal.commit(numbered(n), [](Status) {});
  REQUIRE(commit(journal, numbered(to)).ok());
}

inline void sql(const std::string& path, const std::string& text) {
  sqlite3* db = nullptr;
  REQUIRE(sqlite3_open(path.c_str(), &db) == SQLITE_OK);
  char* error = nullptr;
  if (sqlite3_exec(db, text.c_str(), nullptr, nullptr, &error) != SQLITE_OK) FAIL(error);
  sqlite3_close(db);
}

inline std::string lines_of(const VerifyReport& r) {
  std::string all;
  for (const Finding& f : r.findings) all += f.to_line() + "\n";
  for (const std::string& l : r.lines) all += l + "\n";
  return all;
}

}  // namespace bp::storage::test
