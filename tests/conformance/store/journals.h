// The journals that the conformance suite runs against, and rows to put into them.
#pragma once
#include <catch2/catch.hpp>
#include <future>

#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "storage/memory_journal.h"
#include "storage/sqlite_journal.h"

namespace bp::storage::test {

constexpr int64_t kNow = 1'700'000'000'000;

struct Memory {
  std::unique_ptr<Journal> journal = std::make_unique<MemoryJournal>();
  void reopen() {}
  void settle() {}
};

template <bool kThreads>
struct Sqlite {
  std::string dir = "/tmp/" + random_id("bp-journal");
  std::unique_ptr<Journal> journal;
  Sqlite() {
    REQUIRE(make_dirs(dir).ok());
    reopen();
  }
  ~Sqlite() {
    journal.reset();
    CHECK(remove_tree(dir).ok());
  }
  void reopen() {
    journal.reset();
    SqliteJournalOptions o;
    o.path = dir + "/journal.db";
    o.wal_pages = 100;
    o.threads = kThreads;
    auto opened = SqliteJournal::open(o);
    if (!opened.ok()) FAIL(opened.error().to_string());
    journal = std::move(opened).value();
  }
  void settle() {
    REQUIRE(static_cast<SqliteJournal*>(journal.get())->wait_searchable(10'000).ok());
  }
};
using Disk = Sqlite<true>;
using Inline = Sqlite<false>;

inline Status commit(Journal& journal, Commit c) {
  auto done = std::make_shared<std::promise<Status>>();
  auto future = done->get_future();
  journal.commit(std::move(c), [done](Status s) { done->set_value(std::move(s)); });
  REQUIRE(future.wait_for(std::chrono::seconds(10)) == std::future_status::ready);
  return future.get();
}

inline Entry entry(uint64_t run, uint64_t seq, uint64_t previous, std::string body = {}) {
  Entry e;
  e.run_number = run;
  e.run_seq = seq;
  e.previous_commit = previous;
  e.wall_ms = kNow + int64_t(seq);
  e.type = 10;
  e.next = {Actor::kDaemon, 77};
  e.body = body.empty() ? "event " + std::to_string(seq) : std::move(body);
  return e;
}

inline LiveRow live(uint64_t run, uint64_t seq, uint64_t last_commit) {
  LiveRow r;
  r.run_number = run;
  r.run_id = "r" + std::to_string(run) + "-abc123";
  r.name = "name-" + std::to_string(run);
  r.state = 2;
  r.run_seq = seq;
  r.last_commit = last_commit;
  r.next = {Actor::kStageHost, 1234};
  r.why = "stage one runs";
  r.body = std::string("body\0with zero", 14);
  return r;
}

inline EndedRow ended(uint64_t run, uint64_t last_commit, int state = 5) {
  EndedRow r;
  r.run_number = run;
  r.run_id = "r" + std::to_string(run) + "-abc123";
  r.name = "name-" + std::to_string(run);
  r.workflow = run % 2 ? "odd" : "even";
  r.state = state;
  r.created_wall_ms = kNow + int64_t(run) * 1000;
  r.ended_wall_ms = r.created_wall_ms + 500;
  r.labels = {{"team", run % 3 ? "a" : "b"}, {"n", std::to_string(run)}};
  r.last_commit = last_commit;
  return r;
}

inline Commit numbered(uint64_t n) {
  Commit c;
  c.number = n;
  c.wall_ms = kNow;
  return c;
}

inline Commit first() {
  Commit c = numbered(1);
  c.replay_from = 1;
  c.entries = {entry(1, 1, 0, std::string("one\0byte", 8)), entry(2, 1, 0),
               entry(0, 0, 0, "daemon")};
  c.put_live = {live(1, 1, 1)};
  c.put_secrets = {{1, "par-0", "sealed"}};
  c.put_meta["color"] = "blue";
  c.put_blobs["abcd"] = std::string(100'000, 'b');
  return c;
}

inline std::vector<uint64_t> numbers(const std::vector<EndedRow>& rows) {
  std::vector<uint64_t> out;
  for (const EndedRow& r : rows) out.push_back(r.run_number);
  return out;
}

}  // namespace bp::storage::test

#define BP_JOURNALS Memory, Disk, Inline
