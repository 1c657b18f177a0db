// Maintenance while somebody writes: what it gives must be whole, and the journal must not suffer.
#include <unistd.h>

#include <atomic>
#include <thread>

#include "storage/journal_reader.h"
#include "tests/fault/store/fault_journal.h"

using namespace bp;
using namespace bp::storage;
using namespace bp::storage::test;

namespace {

/// Writes on until it is destroyed; the journal's own thread answers.
class Load {
 public:
  Load(SqliteJournal& journal, uint64_t from) : journal_(journal), next_(from) {
    thread_ = std::thread([this] {
      while (!stop_) {
        std::promise<Status> done;
        auto future = done.get_future();
        journal_.commit(numbered(next_), [&](Status s) { done.set_value(std::move(s)); });
        if (!future.get().ok()) ++failed_;
        ++next_;
      }
    });
  }
  ~Load() { stop(); }
  uint64_t stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    CHECK(failed_ == 0);
    return next_ - 1;
  }

 private:
  SqliteJournal& journal_;
  std::atomic<uint64_t> next_;
  std::atomic<bool> stop_{false};
  std::atomic<int> failed_{0};
  std::thread thread_;
};

void check_runs(Journal& j, uint64_t from_run, uint64_t to_run) {
  for (uint64_t run = from_run; run <= to_run; ++run) {
    auto row = j.ended_by_number(run);
    REQUIRE(row.ok());
    REQUIRE(row->has_value());
    auto entries = j.history(run, (*row)->last_commit, 0);
    REQUIRE(entries.ok());
    CHECK(entries->size() == kRunLength);
  }
}

}  // namespace

TEST_CASE("backup: consistent and verified while somebody writes, also when it is slow") {
  Folder f;
  auto journal = open_ok(f.db());
  fill(*journal, 1, 1000);
  const std::string to = f.path + "/backup.db";
  VerifyReport report;
  uint64_t last = 0;
  {
    Load load(*journal, 1001);
    Pace pace;
    pace.bytes_per_s = 2'000'000;
    auto made = backup(f.db(), to, pace);
    if (!made.ok()) FAIL(made.error().to_string());
    report = *made;
    last = load.stop();
  }
  CHECK(report.sound());
  CHECK(report.last_commit >= 1000);
  CHECK(report.last_commit <= last);
  CHECK(report.commits == report.last_commit);
  CHECK(backup(f.db(), to).error().code == ErrorCode::kAlreadyExists);
  auto copy = open_ok(to);
  auto r = copy->recover();
  REQUIRE(r.ok());
  CHECK(r->last_commit == report.last_commit);
  CHECK(r->meta.at("newest") == std::to_string(report.last_commit));
  CHECK(r->incarnation == 2);
  REQUIRE(copy->wait_searchable(10'000).ok());
  check_runs(*copy, 1, 200);
  CHECK(commit(*copy, numbered(report.last_commit + 1)).ok());
  CHECK(copy->check({})->empty());
}

TEST_CASE("backup: cancelled, it leaves nothing") {
  Folder f;
  auto journal = open_ok(f.db());
  fill(*journal, 1, 300);
  Pace pace;
  int asked = 0;
  pace.cancelled = [&] { return ++asked > 10; };
  auto made = backup(f.db(), f.path + "/backup.db", pace);
  REQUIRE(!made.ok());
  CHECK(made.error().code == ErrorCode::kCancelled);
  CHECK(::access((f.path + "/backup.db").c_str(), F_OK) != 0);
  CHECK(::access((f.path + "/backup.db.partial").c_str(), F_OK) != 0);
  CHECK(commit(*journal, numbered(301)).ok());
}

TEST_CASE("restore: an incarnation above the backup's, the replaced journal's and the nodes'") {
  Folder f;
  {
    auto journal = open_ok(f.db());
    fill(*journal, 1, 100);
  }
  REQUIRE(backup(f.db(), f.path + "/backup.db").ok());
  CHECK(restore(f.path + "/backup.db", f.db()).error().code == ErrorCode::kAlreadyExists);
  RestoreOptions o;
  o.replace = true;
  CHECK(restore(f.path + "/backup.db", f.db(), o).value() == 2);
  CHECK(open_ok(f.db())->recover()->incarnation == 2);
  CHECK(restore(f.path + "/backup.db", f.db(), o).value() == 3);  // above the one replaced
  o.least_incarnation = 40;
  CHECK(restore(f.path + "/backup.db", f.db(), o).value() == 40);
  auto journal = open_ok(f.db());
  CHECK(journal->recover()->incarnation == 40);
  CHECK(journal->recover()->last_commit == 100);
  fill(*journal, 101, 150);
  REQUIRE(journal->wait_searchable(10'000).ok());
  check_runs(*journal, 1, 25);
  CHECK(journal->check({})->empty());
}

TEST_CASE("restore: a search index of a later state is not believed") {
  Folder f;
  {
    auto journal = open_ok(f.db());
    fill(*journal, 1, 100);
    REQUIRE(backup(f.db(), f.path + "/backup.db").ok());
    fill(*journal, 101, 200);
    REQUIRE(journal->wait_searchable(10'000).ok());
    CHECK(journal->ended_by_number(40).value().has_value());
  }
  RestoreOptions o;
  o.replace = true;
  REQUIRE(restore(f.path + "/backup.db", f.db(), o).ok());
  auto journal = open_ok(f.db());
  CHECK(!journal->ended_by_number(40).value().has_value());
  CHECK(journal->ended_by_number(25).value().has_value());
  CHECK(!journal->ended_by_key("key-40").value().has_value());
}

TEST_CASE("restore: a damaged backup is refused, and the journal stays") {
  Folder f;
  {
    auto journal = open_ok(f.db());
    fill(*journal, 1, 100);
  }
  REQUIRE(backup(f.db(), f.path + "/backup.db").ok());
  sql(f.path + "/backup.db", "UPDATE log SET wall_ms = 1 WHERE number = 50");
  RestoreOptions o;
  o.replace = true;
  auto refused = restore(f.path + "/backup.db", f.db(), o);
  REQUIRE(!refused.ok());
  CHECK(refused.error().message.find("commit 50") != std::string::npos);
  CHECK(open_ok(f.db())->recover()->last_commit == 100);
}

TEST_CASE("export and import: everything comes back, while somebody writes") {
  Folder f;
  auto journal = open_ok(f.db());
  fill(*journal, 1, 500);
  {
    Load load(*journal, 501);
    REQUIRE(export_journal(f.db(), f.path + "/all.export").ok());
  }
  auto made = import_journal(f.path + "/all.export", f.path + "/imported.db");
  if (!made.ok()) FAIL(made.error().to_string());
  CHECK(made->last_commit >= 500);
  auto copy = open_ok(f.path + "/imported.db");
  CHECK(copy->recover()->meta.at("newest") == std::to_string(made->last_commit));
  CHECK(copy->check({})->empty());
  check_runs(*copy, 1, 100);
}

TEST_CASE("export: one run goes into a file that opens as an archive and holds no other's bodies") {
  Folder f;
  auto journal = open_ok(f.db());
  Commit both = numbered(1);
  Entry other = both.entries[0];
  other.run_number = 99;
  other.body = "a secret of another run";
  both.entries.push_back(other);
  REQUIRE(commit(*journal, both).ok());
  fill(*journal, 2, 100);
  REQUIRE(export_journal(f.db(), f.path + "/one.export", 1, 16).ok());
  const std::string bytes = read_file(f.path + "/one.export", 1 << 20).value();
  CHECK(bytes.find("event 16x") != std::string::npos);
  CHECK(bytes.find("a secret of another run") == std::string::npos);
  REQUIRE(import_journal(f.path + "/one.export", f.path + "/one.db").ok());
  auto a = Archive::open(f.path + "/one.db");
  REQUIRE(a.ok());
  auto entries = a->history(1);
  REQUIRE(entries.ok());
  REQUIRE(entries->size() == kRunLength);
  CHECK(entries->front().body.find("event 1x") == 0);
  CHECK(a->ended({})->size() == 1);
  CHECK(a->history(2).error().code == ErrorCode::kNotFound);
}

TEST_CASE("import: a cut or altered export is refused, with the place") {
  Folder f;
  {
    auto journal = open_ok(f.db());
    fill(*journal, 1, 40);
  }
  REQUIRE(export_journal(f.db(), f.path + "/all.export").ok());
  const std::string whole = read_file(f.path + "/all.export", 1 << 20).value();
  std::string bytes = whole;
  SECTION("cut") { bytes.resize(bytes.size() / 2); }
  SECTION("cut before its end") { bytes.resize(bytes.size() - 40); }
  SECTION("a bit flipped") { bytes[bytes.size() / 2] = char(bytes[bytes.size() / 2] ^ 4); }
  SECTION("something behind it") { bytes += "x"; }
  SECTION("another file") { bytes = std::string(1000, 'q'); }
  REQUIRE(write_file_atomic(f.path + "/bad.export", bytes).ok());
  auto made = import_journal(f.path + "/bad.export", f.path + "/bad.db");
  REQUIRE(!made.ok());
  INFO(made.error().message);
  CHECK((made.error().message.find("byte") != std::string::npos ||
         made.error().message.find("commit") != std::string::npos));
  CHECK(::access((f.path + "/bad.db").c_str(), F_OK) != 0);
}

TEST_CASE("erase: the bodies of a run go, the chain and everybody else stay") {
  Folder f;
  auto journal = open_ok(f.db());
  fill(*journal, 1, 200);
  REQUIRE(journal->wait_searchable(10'000).ok());
  const uint64_t last = journal->ended_by_number(3).value()->last_commit;
  {
    Load load(*journal, 201);
    CHECK(erase_run(*journal, 3, last, false).value() == kRunLength);
  }
  auto entries = journal->history(3, last, 0).value();
  REQUIRE(entries.size() == kRunLength);
  for (const Entry& e : entries) {
    CHECK(e.body.empty());
    CHECK(e.body_hash.size() == 32);
  }
  CHECK(journal->ended_by_number(3).value().has_value());
  CHECK(journal->history(2, journal->ended_by_number(2).value()->last_commit, 0)
            .value()
            .front()
            .body.find("event 2x") == 0);
  CHECK(erase_run(*journal, 3, last, true).value() == 1);
  CHECK(!journal->ended_by_number(3).value().has_value());
  CHECK(verify(f.db())->sound());
}

TEST_CASE("archive: the oldest runs move into a file, the log shrinks, and both verify") {
  Folder f;
  auto journal = open_ok(f.db());
  fill(*journal, 1, 1000);  // runs 1 to 250 have ended
  REQUIRE(journal->wait_searchable(10'000).ok());
  ArchiveOptions o;
  o.to = f.path + "/2024.archive";
  o.keep_newest = 100;
  uint64_t written = 0;
  {
    Load load(*journal, 1001);
    auto made = archive(*journal, o);
    if (!made.ok()) FAIL(made.error().to_string());
    CHECK(made->runs >= 150);
    CHECK(made->first_run == 1);
    CHECK(made->entries == made->runs * (kRunLength + 1));
    written = load.stop();
  }
  CHECK(written > 1000);
  REQUIRE(journal->wait_searchable(10'000).ok());
  CHECK(!journal->ended_by_number(1).value().has_value());
  CHECK(!journal->ended_by_key("key-1").value().has_value());
  check_runs(*journal, 201, 240);
  auto gone = journal->history(1, 16, 0);
  REQUIRE(!gone.ok());
  CHECK(gone.error().code == ErrorCode::kNotFound);
  CHECK(gone.error().message.find(o.to) != std::string::npos);
  auto report = verify(f.db());
  REQUIRE(report.ok());
  INFO(lines_of(*report));
  CHECK(report->sound());
  CHECK(report->first_commit > 400);  // the prefix was dropped
  auto a = Archive::open(o.to);
  REQUIRE(a.ok());
  for (uint64_t run : {1, 77, 150}) {
    auto entries = a->history(run);
    REQUIRE(entries.ok());
    CHECK(entries->size() == kRunLength);
    CHECK(entries->back().body.find("event ") == 0);
  }
  EndedQuery q;
  q.labels = {{"turn", "2"}};
  q.limit = 1000;
  CHECK(a->ended(q)->size() >= 30);
  REQUIRE(journal->rebuild_search().ok());
  REQUIRE(journal->wait_searchable(10'000).ok());
  CHECK(!journal->ended_by_number(1).value().has_value());
  journal.reset();
  journal = open_ok(f.db());
  CHECK(commit(*journal, numbered(written + 1)).ok());
  CHECK(journal->check({})->empty());
  REQUIRE(backup(f.db(), f.path + "/after.db").ok());
}

TEST_CASE("archive: by age, without a file, and cut off between its steps") {
  Folder f;
  auto journal = open_ok(f.db());
  fill(*journal, 1, 400);
  REQUIRE(journal->wait_searchable(10'000).ok());
  ArchiveOptions o;
  SECTION("by age") {
    o.ended_before_wall_ms = kWall + 100;
    auto made = archive(*journal, o);
    REQUIRE(made.ok());
    CHECK(made->runs == 24);  // of run 25 the end is at kWall + 100
    CHECK(!journal->ended_by_number(24).value().has_value());
    CHECK(journal->ended_by_number(25).value().has_value());
    CHECK(archive(*journal, o)->runs == 0);
  }
  SECTION("begun and not done: the next call erases what the file holds") {
    o.to = f.path + "/a.archive";
    o.keep_newest = 60;
    auto made = archive(*journal, o);
    REQUIRE(made.ok());
    CHECK(made->runs == 40);
    REQUIRE(journal->on_writer([](Database& db) { return db.exec("UPDATE archives SET done = 0"); })
                .ok());
    ArchiveOptions again;
    again.to = f.path + "/b.archive";
    again.keep_newest = 1000;
    CHECK(archive(*journal, again)->runs == 0);
    auto reader = JournalReader::open(f.db());
    CHECK(reader->db().number("SELECT count(*) FROM archives WHERE done = 0").value() == 0);
  }
  CHECK(verify(f.db())->sound());
}

TEST_CASE("search: deleted, damaged or asked to, it is built anew from the log") {
  Folder f;
  {
    auto journal = open_ok(f.db());
    fill(*journal, 1, 400);
    REQUIRE(journal->wait_searchable(10'000).ok());
  }
  for (const char* suffix : {"-wal", "-shm"}) ::unlink((f.path + "/search.db" + suffix).c_str());
  SECTION("deleted") { ::unlink((f.path + "/search.db").c_str()); }
  SECTION("damaged") {
    REQUIRE(write_file_atomic(f.path + "/search.db", std::string(100'000, 'z')).ok());
  }
  SECTION("as it was") {}
  auto journal = open_ok(f.db());
  REQUIRE(journal->wait_searchable(10'000).ok());
  check_runs(*journal, 1, 100);
  CHECK(journal->ended_by_key("key-77").value()->run_number == 77);
  CHECK(journal->ended_counts().value() == std::map<int, uint64_t>{{5, 90}, {8, 10}});
  REQUIRE(journal->rebuild_search().ok());
  {
    Load load(*journal, 401);
    REQUIRE(journal->wait_searchable(10'000).ok());
    CHECK(journal->ended_by_key("key-77").value()->run_number == 77);
  }
  REQUIRE(journal->wait_searchable(10'000).ok());
  EndedQuery q;
  q.states = {8};
  q.before_run_number = 101;
  CHECK(journal->ended(q)->size() == 10);
}
