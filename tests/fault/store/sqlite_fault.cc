// The SQLite store against the world: killed at random moments, a full disk, damaged and foreign
// files, copies, older and newer schemas.
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <future>
#include <random>
#include <thread>

#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "storage/sqlite_schema.h"
#include "storage/sqlite_store.h"

using namespace bp;
using namespace bp::storage;

namespace {

struct Folder {
  std::string path = "/tmp/" + random_id("bp-fault");
  Folder() { REQUIRE(make_dirs(path).ok()); }
  ~Folder() { CHECK(remove_tree(path).ok()); }
  std::string db() const { return path + "/journal.db"; }
};

// Batch n puts event n of its run, the run's row, and a stage and a timer.
Batch numbered(uint64_t n, size_t body_bytes = 200) {
  const std::string id = "run-" + std::to_string(n % 5);
  const std::string text = "event " + std::to_string(n);
  Batch b;
  b.events = {{n, id, (n + 4) / 5, int64_t(n), "ended", text + std::string(body_bytes, 'x')}};
  RunRow r;
  r.run_id = id;
  r.run_number = n % 5 + 1;
  r.name = id;
  r.state = 2;
  r.epoch_counter = n;
  r.body = text;
  b.put_runs = {r};
  b.put_stages = {{id, "one", 0, 2, text}};
  b.put_timers = {{id, "one", 0, 1, n, int64_t(n), 1, "boot"}};
  return b;
}

Status commit(Store& store, Batch batch) {
  std::promise<Status> done;
  auto future = done.get_future();
  store.commit(std::move(batch), [&](Status s) { done.set_value(std::move(s)); });
  REQUIRE(future.wait_for(std::chrono::seconds(20)) == std::future_status::ready);
  return future.get();
}

std::unique_ptr<SqliteStore> open_ok(const std::string& path, int wal_pages = 60) {
  auto s = SqliteStore::open({path, wal_pages});
  if (!s.ok()) FAIL(s.error().to_string());
  return std::move(s).value();
}

void sql(const std::string& path, const std::string& text) {
  sqlite3* db = nullptr;
  REQUIRE(sqlite3_open(path.c_str(), &db) == SQLITE_OK);
  char* error = nullptr;
  if (sqlite3_exec(db, text.c_str(), nullptr, nullptr, &error) != SQLITE_OK) FAIL(error);
  sqlite3_close(db);
}

// Commits without end and writes the number of every acknowledged one to `out`. Never returns.
[[noreturn]] void commit_forever(const std::string& path, uint64_t from, int out) {
  auto store = SqliteStore::open({path, 60});
  if (!store.ok()) _exit(3);
  for (uint64_t n = from;; ++n) {
    (*store)->commit(numbered(n), [n, out](Status ok) {
      if (!ok.ok() || ::write(out, &n, sizeof n) != ssize_t(sizeof n)) _exit(4);
    });
    if (n % 7 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
  }
}

uint64_t last_acknowledged(int in, uint64_t before) {
  uint64_t n = before, read_now = 0;
  while (::read(in, &read_now, sizeof read_now) == ssize_t(sizeof read_now)) {
    CHECK(read_now == n + 1);  // in order, none left out
    n = read_now;
  }
  return n;
}

}  // namespace

TEST_CASE("sqlite store: whatever was acknowledged survives kill -9 at any moment") {
  Folder f;
  std::mt19937_64 rng(20240501);
  uint64_t acknowledged = 0;
  uint64_t from = 1;
  for (int round = 0; round < 15; ++round) {
    int pipe_fds[2];
    REQUIRE(::pipe2(pipe_fds, O_CLOEXEC) == 0);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) commit_forever(f.db(), from, pipe_fds[1]);
    ::close(pipe_fds[1]);
    std::this_thread::sleep_for(std::chrono::milliseconds(10 + rng() % 80));
    REQUIRE(::kill(child, SIGKILL) == 0);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    acknowledged = last_acknowledged(pipe_fds[0], from - 1);
    ::close(pipe_fds[0]);
    auto store = open_ok(f.db());
    auto live = store->load_live();
    REQUIRE(live.ok());
    INFO("round " << round << ", acknowledged " << acknowledged << ", found " << live->last_seq);
    REQUIRE(live->last_seq >= acknowledged);
    for (const RunRow& r : live->runs) CHECK(r.body == "event " + std::to_string(r.epoch_counter));
    auto faults = store->check();
    REQUIRE(faults.ok());
    CHECK(faults->empty());
    from = live->last_seq + 1;
  }
  CHECK(acknowledged > 100);
}

TEST_CASE(
    "sqlite store: a full disk is reported, nothing acknowledged is lost, nothing is tried again") {
  Folder f;
  uint64_t acknowledged = 0;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    // The file size limit of a process stands in for the disk: it needs no mount and no root.
    ::signal(SIGXFSZ, SIG_IGN);
    auto store = SqliteStore::open({f.db(), 60});
    if (!store.ok()) _exit(3);
    rlimit limit{};
    if (::getrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(4);
    const rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 2 << 20;
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(4);
    for (uint64_t n = 1; n < 10'000; ++n) {
      std::promise<Status> done;
      (*store)->commit(numbered(n, 30'000), [&](Status ok) { done.set_value(std::move(ok)); });
      Status ok = done.get_future().get();
      if (ok.ok()) {
        acknowledged = n;
        continue;
      }
      if (ok.error().code != ErrorCode::kDiskFull) _exit(5);
      limit.rlim_cur = before;
      if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(8);
      std::promise<Status> again;
      (*store)->commit(numbered(n, 1), [&](Status s) { again.set_value(std::move(s)); });
      if (again.get_future().get().ok()) _exit(6);  // broken is broken
      if (!(*store)->load_live().ok()) _exit(7);    // but it can be read
      _exit(write_file_atomic(f.path + "/acknowledged", std::to_string(acknowledged)).ok() ? 0 : 8);
    }
    _exit(9);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
  acknowledged = std::stoull(read_file(f.path + "/acknowledged", 100).value());
  CHECK(acknowledged > 10);
  auto store = open_ok(f.db());
  CHECK(store->load_live()->last_seq >= acknowledged);
  CHECK(store->check()->empty());
  const uint64_t next = store->load_live()->last_seq + 1;
  CHECK(commit(*store, numbered(next)).ok());
}

TEST_CASE("sqlite store: a damaged or foreign file is refused in words") {
  Folder f;
  SECTION("not a database") {
    REQUIRE(write_file_atomic(f.db(), std::string(8192, 'z')).ok());
    auto s = SqliteStore::open({f.db(), 60});
    REQUIRE(!s.ok());
    CHECK(s.error().code == ErrorCode::kJournal);
    CHECK(s.error().message.find("damaged") != std::string::npos);
    CHECK(s.error().message.find(f.db()) != std::string::npos);
  }
  SECTION("another program's database") {
    sql(f.db(), "CREATE TABLE t(x)");
    auto s = SqliteStore::open({f.db(), 60});
    REQUIRE(!s.ok());
    CHECK(s.error().message.find("not a journal") != std::string::npos);
  }
  SECTION("a newer schema") {
    open_ok(f.db()).reset();
    sql(f.db(), "PRAGMA user_version = 99");
    auto s = SqliteStore::open({f.db(), 60});
    REQUIRE(!s.ok());
    CHECK(s.error().message.find("99") != std::string::npos);
  }
  SECTION("a folder that does not exist") {
    auto s = SqliteStore::open({f.path + "/none/journal.db", 60});
    REQUIRE(!s.ok());
    CHECK(s.error().code == ErrorCode::kNotFound);
  }
}

TEST_CASE("sqlite store: check names what was altered behind its back") {
  Folder f;
  {
    auto store = open_ok(f.db());
    for (uint64_t n = 1; n <= 20; ++n) REQUIRE(commit(*store, numbered(n)).ok());
    CHECK(store->check()->empty());
  }
  std::string expected;
  SECTION("a body") {
    sql(f.db(), "UPDATE events SET body = CAST('other' AS BLOB) WHERE seq = 7");
    expected = "event 7 of run run-2 was altered";
  }
  SECTION("a header") {
    sql(f.db(), "UPDATE events SET type = 'lost' WHERE seq = 8");
    expected = "event 8 of run run-3 breaks the hash chain";
  }
  SECTION("an event removed in the middle") {
    sql(f.db(), "DELETE FROM events WHERE seq = 9");
    expected = "gap in the events";
  }
  SECTION("the newest event removed") {
    sql(f.db(), "DELETE FROM events WHERE seq = 20");
    expected = "a sealed commit whose events are gone";
  }
  SECTION("a timer of an ended run") {
    sql(f.db(), "UPDATE runs SET live = 0 WHERE run_id = 'run-1'");
    expected = "a timer of a run that has ended: run-1 one";
  }
  SECTION("stages without their run") {
    sql(f.db(), "PRAGMA foreign_keys = OFF; DELETE FROM runs WHERE run_id = 'run-1'");
    expected = "belongs to no run";
  }
  auto store = open_ok(f.db());
  auto faults = store->check();
  REQUIRE(faults.ok());
  std::string all;
  for (const std::string& line : *faults) all += line + "\n";
  INFO(all);
  CHECK(all.find(expected) != std::string::npos);
}

TEST_CASE("sqlite store: an erased body breaks no chain") {
  Folder f;
  {
    auto store = open_ok(f.db());
    for (uint64_t n = 1; n <= 20; ++n) REQUIRE(commit(*store, numbered(n)).ok());
  }
  sql(f.db(), "UPDATE events SET body = NULL WHERE seq = 7");
  CHECK(open_ok(f.db())->check()->empty());
}

TEST_CASE("sqlite store: damaged pages are found by check, not by a crash") {
  Folder f;
  {
    auto store = open_ok(f.db());
    for (uint64_t n = 1; n < 400; ++n) store->commit(numbered(n), [](Status) {});
    REQUIRE(commit(*store, numbered(400)).ok());
  }
  sql(f.db(), "PRAGMA wal_checkpoint(TRUNCATE)");
  int fd = ::open(f.db().c_str(), O_RDWR | O_CLOEXEC);
  struct stat st {};
  REQUIRE(::fstat(fd, &st) == 0);
  const std::string noise(4096, '\x5a');
  for (off_t at = 20 * 4096; at + 4096 < st.st_size; at += 10 * 4096) {
    REQUIRE(::pwrite(fd, noise.data(), noise.size(), at) == 4096);
  }
  ::close(fd);
  auto store = SqliteStore::open({f.db(), 60});
  if (!store.ok()) {
    CHECK(store.error().code == ErrorCode::kJournal);
    return;
  }
  auto faults = (*store)->check();
  CHECK((!faults.ok() || !faults->empty()));
  if (!faults.ok()) CHECK(faults.error().message.find("damaged") != std::string::npos);
}

TEST_CASE("sqlite store: a copy of the journal is a new incarnation, the original is not") {
  Folder f;
  {
    auto store = open_ok(f.db());
    REQUIRE(commit(*store, numbered(1)).ok());
  }
  CHECK(open_ok(f.db())->load_live()->incarnation == 1);
  sql(f.db(), "VACUUM INTO '" + f.path + "/copy.db'");
  CHECK(open_ok(f.path + "/copy.db")->load_live()->incarnation == 2);
  CHECK(open_ok(f.path + "/copy.db")->load_live()->incarnation == 2);
  CHECK(open_ok(f.db())->load_live()->incarnation == 1);
}

TEST_CASE(
    "sqlite store: a migration takes a copy first, and a failed one leaves the file as it was") {
  Folder f;
  {
    auto store = open_ok(f.db());
    REQUIRE(commit(*store, numbered(1)).ok());
  }
  std::vector<Migration> list = migrations();
  const int next = list.back().to_version + 1;
  const std::string copy = f.db() + ".before-v" + std::to_string(next);
  SECTION("one that works") {
    list.push_back({next, "ALTER TABLE runs ADD COLUMN extra INTEGER"});
    {
      auto db = Database::open(f.db(), SQLITE_OPEN_READWRITE);
      REQUIRE(migrate(*db, f.db(), list).ok());
      CHECK(db->number("PRAGMA user_version").value() == next);
    }
    auto old = Database::open(copy, SQLITE_OPEN_READWRITE);
    REQUIRE(old.ok());
    CHECK(old->number("PRAGMA user_version").value() == next - 1);
    CHECK(old->number("SELECT count(*) FROM events").value() == 1);
  }
  SECTION("one that fails half way") {
    list.push_back({next, "CREATE TABLE half(x); CREATE TABLE runs(x)"});
    {
      auto db = Database::open(f.db(), SQLITE_OPEN_READWRITE);
      CHECK(!migrate(*db, f.db(), list).ok());
      CHECK(db->number("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").value() == 0);
    }
    CHECK(open_ok(f.db())->load_live()->last_seq == 1);
  }
}

TEST_CASE("sqlite store: the log stays near its size while the file takes over what it held") {
  Folder f;
  auto store = open_ok(f.db(), 60);
  for (uint64_t n = 1; n < 2000; ++n) store->commit(numbered(n, 2000), [](Status) {});
  REQUIRE(commit(*store, numbered(2000)).ok());
  struct stat before {
  }, wal{}, file{};
  REQUIRE(::stat((f.db() + "-wal").c_str(), &before) == 0);
  for (uint64_t n = 2001; n <= 2040; ++n) REQUIRE(commit(*store, numbered(n, 2000)).ok());
  REQUIRE(::stat((f.db() + "-wal").c_str(), &wal) == 0);
  REQUIRE(::stat(f.db().c_str(), &file) == 0);
  CHECK(wal.st_size == before.st_size);
  CHECK(file.st_size > 2000 * 2000);
  CHECK(store->check()->empty());
}

TEST_CASE("sqlite store: lookups use an index however many runs have ended") {
  Folder f;
  open_ok(f.db()).reset();
  auto db = Database::open(f.db(), SQLITE_OPEN_READONLY);
  REQUIRE(db.ok());
  for (const char* query :
       {"SELECT * FROM runs WHERE run_id = 'x'", "SELECT * FROM runs WHERE name = 'x' AND live = 1",
        "SELECT * FROM runs WHERE name = 'x' ORDER BY run_number DESC LIMIT 1",
        "SELECT * FROM runs WHERE idempotency_key = 'x' AND idempotency_key <> ''",
        "SELECT * FROM runs WHERE live = 1 ORDER BY run_number DESC LIMIT 9",
        "SELECT * FROM stages WHERE run_id = 'x'", "SELECT * FROM secrets WHERE run_id = 'x'",
        "SELECT * FROM events WHERE run_id = 'x' AND run_seq > 3 ORDER BY run_seq LIMIT 5",
        "SELECT * FROM runs r JOIN stages s ON s.run_id = r.run_id WHERE r.live = 1"}) {
    auto plan = Statement::prepare(db->get(), std::string("EXPLAIN QUERY PLAN ") + query);
    REQUIRE(plan.ok());
    while (plan->step().value()) {
      const std::string line = plan->bytes_at(3);
      INFO(query << ": " << line);
      CHECK(
          (line.find("SCAN") == std::string::npos || line.find("runs_live") != std::string::npos));
      CHECK(line.find("TEMP B-TREE") == std::string::npos);
    }
  }
}

TEST_CASE("sqlite store: its files are private, and the log is grown beforehand and kept") {
  Folder f;
  struct stat st {};
  {
    auto store = open_ok(f.db(), 60);
    REQUIRE(::stat(f.db().c_str(), &st) == 0);
    CHECK((st.st_mode & 0777) == 0600);
    REQUIRE(::stat((f.db() + "-wal").c_str(), &st) == 0);
    CHECK((st.st_mode & 0777) == 0600);
    const auto grown = st.st_size;
    CHECK(grown >= 60 * 4096);
    for (uint64_t n = 1; n <= 50; ++n) REQUIRE(commit(*store, numbered(n)).ok());
    REQUIRE(::stat((f.db() + "-wal").c_str(), &st) == 0);
    CHECK(st.st_size <= grown + 30 * 4120);  // reused, not ever growing
  }
  REQUIRE(::stat((f.db() + "-wal").c_str(), &st) == 0);
  CHECK(st.st_size >= 60 * 4096);
  CHECK(open_ok(f.db())->load_live()->last_seq == 50);
}
