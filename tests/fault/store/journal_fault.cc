// The journal in SQLite against the world: killed at random moments, a full disk, damaged and
// foreign files, copies.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>
#include <thread>

#include "tests/fault/store/fault_journal.h"

using namespace bp;
using namespace bp::storage;
using namespace bp::storage::test;

namespace {

// Commits without end and writes the number of every acknowledged one to `out`. Never returns.
[[noreturn]] void commit_forever(const std::string& path, uint64_t from, int out) {
  auto journal = SqliteJournal::open(options(path));
  if (!journal.ok()) _exit(3);
  for (uint64_t n = from;; ++n) {
    (*journal)->commit(numbered(n), [n, out](Status ok) {
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

std::string all_lines(const std::vector<std::string>& lines) {
  std::string all;
  for (const std::string& line : lines) all += line + "\n";
  return all;
}

}  // namespace

TEST_CASE("journal file: whatever was acknowledged survives kill -9 at any moment") {
  Folder f;
  std::mt19937_64 rng(20240501);
  uint64_t acknowledged = 0, from = 1;
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
    auto journal = open_ok(f.db());
    auto r = journal->recover();
    REQUIRE(r.ok());
    INFO("round " << round << ", acknowledged " << acknowledged << ", found " << r->last_commit);
    REQUIRE(r->last_commit >= acknowledged);
    if (r->last_commit > 0) CHECK(r->meta.at("newest") == std::to_string(r->last_commit));
    auto faults = journal->check({});
    REQUIRE(faults.ok());
    INFO(all_lines(*faults));
    CHECK(faults->empty());
    REQUIRE(journal->wait_searchable(10'000).ok());
    uint64_t ended = 0;
    const auto counts = journal->ended_counts().value();
    for (const auto& [state, n] : counts) ended += n;
    const uint64_t rounds = r->last_commit / kRuns;
    const uint64_t last_row = rounds % kRunLength == kRunLength - 1 ? r->last_commit % kRuns : 0;
    CHECK(ended == rounds / kRunLength * kRuns + last_row);
    from = r->last_commit + 1;
  }
  CHECK(acknowledged > 100);
}

TEST_CASE("journal file: a full disk is reported, nothing acknowledged is lost, nothing retried") {
  Folder f;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    // The file size limit of a process stands in for the disk: it needs no mount and no root.
    ::signal(SIGXFSZ, SIG_IGN);
    uint64_t acknowledged = 0;
    auto journal = SqliteJournal::open(options(f.db()));
    if (!journal.ok()) _exit(3);
    rlimit limit{};
    if (::getrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(4);
    const rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 2 << 20;
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(4);
    for (uint64_t n = 1; n < 10'000; ++n) {
      std::promise<Status> done;
      (*journal)->commit(numbered(n, 30'000), [&](Status ok) { done.set_value(std::move(ok)); });
      Status ok = done.get_future().get();
      if (ok.ok()) {
        acknowledged = n;
        continue;
      }
      if (ok.error().code != ErrorCode::kDiskFull) _exit(5);
      limit.rlim_cur = before;
      if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(8);
      std::promise<Status> again;
      (*journal)->commit(numbered(n, 1), [&](Status s) { again.set_value(std::move(s)); });
      if (again.get_future().get().ok()) _exit(6);  // broken is broken
      if (!(*journal)->recover().ok()) _exit(7);    // but it can be read
      _exit(write_file_atomic(f.path + "/acknowledged", std::to_string(acknowledged)).ok() ? 0 : 8);
    }
    _exit(9);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
  const uint64_t acknowledged = std::stoull(read_file(f.path + "/acknowledged", 100).value());
  CHECK(acknowledged > 10);
  auto journal = open_ok(f.db());
  const uint64_t last = journal->recover()->last_commit;
  CHECK(last >= acknowledged);
  CHECK(journal->check({})->empty());
  CHECK(commit(*journal, numbered(last + 1)).ok());
}

TEST_CASE("journal file: a damaged or foreign one is refused in words") {
  Folder f;
  std::string expected;
  ErrorCode code = ErrorCode::kJournal;
  std::string path = f.db();
  SECTION("not a database") {
    REQUIRE(write_file_atomic(f.db(), std::string(8192, 'z')).ok());
    expected = "damaged";
  }
  SECTION("another program's database") {
    sql(f.db(), "CREATE TABLE t(x)");
    expected = "not a journal";
  }
  SECTION("a newer schema") {
    open_ok(f.db()).reset();
    sql(f.db(), "PRAGMA user_version = 99");
    expected = "99";
  }
  SECTION("a folder that does not exist") {
    path = f.path + "/none/journal.db";
    code = ErrorCode::kNotFound;
  }
  auto j = SqliteJournal::open(options(path));
  REQUIRE(!j.ok());
  INFO(j.error().message);
  CHECK(j.error().code == code);
  CHECK(j.error().message.find(expected) != std::string::npos);
  CHECK(j.error().message.find(path) != std::string::npos);
}

TEST_CASE("journal file: verify names commit and run of what was altered behind its back") {
  Folder f;
  {
    auto journal = open_ok(f.db());
    fill(*journal, 1, 60);
    CHECK(verify(f.db())->sound());
  }
  std::string expected;
  SECTION("a body") {
    sql(f.db(),
        "UPDATE log SET body = CAST(replace(CAST(body AS TEXT), 'event 7x', 'event 8x') AS "
        "BLOB) WHERE number = 7");
    sql(f.db(), "UPDATE log SET body = (SELECT body FROM log WHERE number = 8) WHERE number = 7");
    expected = "commit 7";
  }
  SECTION("a header") {
    sql(f.db(), "UPDATE log SET wall_ms = wall_ms + 1 WHERE number = 8");
    expected = "commit 8: it breaks the chain: its root: found ";
  }
  SECTION("a record removed in the middle") {
    sql(f.db(), "DELETE FROM log WHERE number = 9");
    expected = "commit 10: commits are missing before it: found 10, expected 9";
  }
  SECTION("the order of two") {
    sql(f.db(),
        "UPDATE log SET number = 1000 WHERE number = 12; UPDATE log SET number = 12 WHERE "
        "number = 13; UPDATE log SET number = 13 WHERE number = 1000");
    expected = "commit 12: it breaks the chain";
  }
  SECTION("a count") {
    sql(f.db(), "UPDATE log SET count = 3 WHERE number = 5");
    expected = "item 2 of 3, byte";
  }
  SECTION("a live row ahead of the log") {
    sql(f.db(),
        "UPDATE live SET last_commit = 1000 WHERE run_number = (SELECT min(run_number) "
        "FROM live)");
    sql(f.db(),
        "INSERT INTO live SELECT 11, 'r11-abcdef', 'x', 2, 1, 1000, 4, 1, 'why', x'00' "
        "WHERE NOT EXISTS (SELECT 1 FROM live)");
    expected = "ahead of the log";
  }
  SECTION("secrets of an unknown run") {
    sql(f.db(), "INSERT INTO secrets VALUES(12345, 'par-0', x'00')");
    expected = "12345 par-0";
  }
  auto report = verify(f.db());
  REQUIRE(report.ok());
  INFO(lines_of(*report));
  CHECK(!report->sound());
  CHECK(lines_of(*report).find(expected) != std::string::npos);
  auto lines = open_ok(f.db())->check({});
  REQUIRE(lines.ok());
  CHECK(all_lines(*lines).find(expected) != std::string::npos);
}

TEST_CASE("journal file: one flipped bit in a body names its run") {
  Folder f;
  {
    auto journal = open_ok(f.db());
    Commit c = numbered(1);
    for (uint64_t run = 2; run <= 4; ++run) {
      c.entries.push_back(c.entries[0]);
      c.entries.back().run_number = run;
      c.entries.back().body = "marker " + std::to_string(run);
    }
    REQUIRE(commit(*journal, c).ok());
  }
  sql(f.db(), "PRAGMA wal_checkpoint(TRUNCATE)");
  std::string bytes = read_file(f.db(), 1 << 20).value();
  const size_t at = bytes.find("marker 3");
  REQUIRE(at != std::string::npos);
  int fd = ::open(f.db().c_str(), O_RDWR | O_CLOEXEC);
  const char flipped = char(bytes[at] ^ 1);
  REQUIRE(::pwrite(fd, &flipped, 1, off_t(at)) == 1);
  ::close(fd);
  auto report = verify(f.db());
  REQUIRE(report.ok());
  INFO(lines_of(*report));
  CHECK(
      lines_of(*report).find("commit 1, run 3: the body of entry 1 was altered: its hash: found") !=
      std::string::npos);
}

TEST_CASE("journal file: truncated or overwritten pages give an error with the place, no crash") {
  Folder f;
  {
    auto journal = open_ok(f.db());
    fill(*journal, 1, 400);
  }
  sql(f.db(), "PRAGMA wal_checkpoint(TRUNCATE)");
  struct stat st {};
  REQUIRE(::stat(f.db().c_str(), &st) == 0);
  SECTION("noise") {
    int fd = ::open(f.db().c_str(), O_RDWR | O_CLOEXEC);
    const std::string noise(4096, '\x5a');
    for (off_t at = 20 * 4096; at + 4096 < st.st_size; at += 10 * 4096)
      REQUIRE(::pwrite(fd, noise.data(), noise.size(), at) == 4096);
    ::close(fd);
  }
  SECTION("cut") { REQUIRE(::truncate(f.db().c_str(), st.st_size / 2) == 0); }
  auto report = verify(f.db());
  CHECK((!report.ok() || !report->sound()));
  if (!report.ok()) CHECK(report.error().message.find("damaged") != std::string::npos);
  auto journal = SqliteJournal::open(options(f.db()));
  if (!journal.ok()) {
    CHECK(journal.error().code == ErrorCode::kJournal);
    return;
  }
  auto faults = (*journal)->check({});
  CHECK((!faults.ok() || !faults->empty()));
}

TEST_CASE("journal file: a torn write-ahead log is cut at the last whole commit") {
  Folder f;
  std::string wal;
  {
    auto o = options(f.db());
    o.wal_pages = 4000;  // no checkpoint
    auto journal = SqliteJournal::open(o);
    REQUIRE(journal.ok());
    fill(**journal, 1, 50);
    REQUIRE(make_dirs(f.path + "/copy").ok());
    wal = read_file(f.db() + "-wal", 64 << 20).value();
    REQUIRE(
        write_file_atomic(f.path + "/copy/journal.db", read_file(f.db(), 64 << 20).value()).ok());
  }
  std::mt19937_64 rng(7);
  uint64_t before = 0;
  for (int i = 0; i < 20; ++i) {
    std::string torn = wal;
    const size_t at = 32 + rng() % 400'000;
    if (i % 2) {
      torn.resize(std::min(at, torn.size()));
    } else {
      torn[std::min(at, torn.size() - 1)] ^= 0x10;
    }
    const std::string copy = f.path + "/copy/journal.db";
    REQUIRE(write_file_atomic(copy + "-wal", torn).ok());
    ::unlink((copy + "-shm").c_str());
    auto report = verify(copy);
    REQUIRE(report.ok());
    INFO(lines_of(*report));
    CHECK(report->sound());
    before = std::max(before, report->last_commit);
    CHECK(report->last_commit <= 50);
  }
  CHECK(before > 0);
}

TEST_CASE("journal file: read-only folders and files are errors, not crashes") {
  if (::geteuid() == 0) return;  // root may write everywhere
  Folder f;
  open_ok(f.db()).reset();
  REQUIRE(::chmod(f.db().c_str(), 0400) == 0);
  auto j = SqliteJournal::open(options(f.db()));
  REQUIRE(!j.ok());
  CHECK(j.error().code == ErrorCode::kPermission);
}

TEST_CASE("journal file: a copy is a new incarnation, the original is not") {
  Folder f;
  {
    auto journal = open_ok(f.db());
    REQUIRE(commit(*journal, numbered(1)).ok());
  }
  const std::string copy = f.path + "/copy.db";
  CHECK(open_ok(f.db())->recover()->incarnation == 1);
  sql(f.db(), "VACUUM INTO '" + copy + "'");
  CHECK(open_ok(copy)->recover()->incarnation == 2);
  CHECK(open_ok(copy)->recover()->incarnation == 2);
  CHECK(open_ok(f.db())->recover()->incarnation == 1);
}

TEST_CASE("journal file: private, and the write-ahead log is grown beforehand and kept") {
  Folder f;
  struct stat st {};
  {
    auto journal = open_ok(f.db());
    REQUIRE(::stat(f.db().c_str(), &st) == 0);
    CHECK((st.st_mode & 0777) == 0600);
    REQUIRE(::stat((f.db() + "-wal").c_str(), &st) == 0);
    CHECK((st.st_mode & 0777) == 0600);
    const auto grown = st.st_size;
    CHECK(grown >= 40 * 4096);
    for (uint64_t n = 1; n <= 300; ++n) REQUIRE(commit(*journal, numbered(n)).ok());
    REQUIRE(::stat((f.db() + "-wal").c_str(), &st) == 0);
    CHECK(st.st_size <= grown + 30 * 4120);  // reused, not ever growing
  }
  REQUIRE(::stat((f.db() + "-wal").c_str(), &st) == 0);
  CHECK(st.st_size >= 40 * 4096);
  CHECK(open_ok(f.db())->recover()->last_commit == 300);
}

TEST_CASE("journal file: seals hold, name what they do not hold for, and need the right key") {
  Folder f;
  const SigningKey key = new_signing_key(), other = new_signing_key();
  REQUIRE(write_signing_key(f.path + "/key", key).ok());
  CHECK(read_signing_key(f.path + "/key")->public_key == key.public_key);
  {
    auto o = options(f.db());
    o.signing_key = key;
    o.seal_every_commits = 10;
    auto journal = SqliteJournal::open(o);
    REQUIRE(journal.ok());
    for (uint64_t n = 1; n <= 45; ++n) REQUIRE(commit(**journal, numbered(n)).ok());
  }
  CHECK(verify(f.db(), key.public_key)->sound());
  auto wrong = verify(f.db(), other.public_key);
  CHECK(lines_of(*wrong).find("its seal does not hold: found public key") != std::string::npos);
  // Somebody who can rewrite the whole chain, but has no key.
  sql(f.db(), "UPDATE seals SET signature = zeroblob(64) WHERE number = 45");
  auto forged = verify(f.db(), key.public_key);
  CHECK(lines_of(*forged).find("commit 45: its seal does not hold") != std::string::npos);
  sql(f.db(), "DELETE FROM seals");
  auto bare = verify(f.db(), key.public_key);
  CHECK(lines_of(*bare).find("no commit is sealed") != std::string::npos);
  REQUIRE(::chmod((f.path + "/key").c_str(), 0644) == 0);
  CHECK(read_signing_key(f.path + "/key").error().code == ErrorCode::kPermission);
}
