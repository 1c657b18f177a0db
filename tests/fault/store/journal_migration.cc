// Every schema that was ever released: tests/fault/store/journals/vN.db was written by the release
// that had it. v1: three deployments, the first stopped, two serving.
#include <unistd.h>

#include "storage/journal_reader.h"
#include "storage/journal_schema.h"
#include "tests/fault/store/fault_journal.h"

using namespace bp;
using namespace bp::storage;
using namespace bp::storage::test;

namespace {

const std::string kJournals = std::string(BP_SOURCE_DIR) + "/tests/fault/store/journals/";

void put_fixture(const Folder& f, const std::string& name) {
  REQUIRE(write_file_atomic(f.db(), read_file(kJournals + name, 1 << 20).value()).ok());
}

}  // namespace

TEST_CASE("migration: a journal of version 1 becomes a log that the core can replay") {
  Folder f;
  put_fixture(f, "v1.db");
  auto journal = open_ok(f.db());
  auto r = journal->recover();
  REQUIRE(r.ok());
  CHECK(r->live.empty());
  CHECK(r->last_run_number == 3);
  CHECK(r->incarnation == 2);  // the fixture is a copy
  CHECK(r->meta.count("incarnation") == 0);
  CHECK(r->meta.count("file_identity") == 0);
  uint64_t entries = 0, tail = 0, bytes = 0;
  std::map<uint64_t, uint64_t> seqs;
  std::map<uint64_t, bool> first_in_tail;
  REQUIRE(journal
              ->read_log(1, UINT64_MAX,
                         [&](const LogRecord& record) -> Status {
                           for (const Entry& e : record.entries) {
                             ++entries;
                             bytes += e.body.size();
                             CHECK(e.run_seq == ++seqs[e.run_number]);
                             CHECK((e.run_seq == 1) == (e.type == 10));
                             if (e.run_seq == 1)
                               first_in_tail[e.run_number] = record.number >= r->replay_from;
                             if (record.number >= r->replay_from) ++tail;
                           }
                           return {};
                         })
              .ok());
  CHECK(entries == 80);
  CHECK(seqs == std::map<uint64_t, uint64_t>{{1, 36}, {2, 22}, {3, 22}});
  CHECK(first_in_tail.at(2));
  CHECK(first_in_tail.at(3));
  CHECK(bytes > 5000);
  CHECK(tail >= 44);
  auto old = journal->number_of_old_id("r-jpcr1k1otm0ipx2w");
  CHECK(old.value() == 2u);
  CHECK(journal->secrets_of(2)->size() == 6);
  CHECK(journal->check({})->empty());
  REQUIRE(journal->wait_searchable(10'000).ok());
  auto ended = journal->ended({}).value();
  REQUIRE(ended.size() == 1);
  CHECK(ended[0].run_id == "r-ul8qyefnhdydx160");
  CHECK(ended[0].name == "first");
  CHECK(ended[0].state == 6);
  CHECK(!ended[0].workflow.empty());
  CHECK(ended[0].error_code.empty());
  CHECK(ended[0].idempotency_key == "submit-xax8pk5pflk3w71u");
  auto history = journal->history(1, ended[0].last_commit, 0).value();
  REQUIRE(history.size() == 36);
  CHECK(history.back().next.actor == Actor::kNobody);
  Commit next;
  next.number = r->last_commit + 1;
  next.put_meta["a"] = "b";
  CHECK(commit(*journal, next).ok());
}

TEST_CASE("migration: the copy taken first is whole, and the second opening migrates nothing") {
  Folder f;
  put_fixture(f, "v1.db");
  open_ok(f.db()).reset();
  const std::string copy = f.db() + ".before-v2";
  {
    auto old = Database::open(copy, SQLITE_OPEN_READWRITE);
    REQUIRE(old.ok());
    CHECK(old->number("PRAGMA user_version").value() == 1);
    CHECK(old->number("SELECT count(*) FROM events").value() == 80);
    CHECK(old->number("SELECT count(*) FROM stages").value() == 18);
  }
  REQUIRE(::unlink(copy.c_str()) == 0);
  CHECK(open_ok(f.db())->recover()->last_run_number == 3);
  CHECK(::access(copy.c_str(), F_OK) != 0);
}

TEST_CASE("migration: one that fails leaves the file as it was") {
  Folder f;
  put_fixture(f, "v1.db");
  sql(f.db(), "UPDATE events SET type = 'of tomorrow' WHERE seq = 40");
  auto j = SqliteJournal::open(options(f.db()));
  REQUIRE(!j.ok());
  CHECK(j.error().code == ErrorCode::kJournal);
  CHECK(j.error().message.find("of tomorrow") != std::string::npos);
  {
    auto db = Database::open(f.db(), SQLITE_OPEN_READWRITE);
    CHECK(db->number("PRAGMA user_version").value() == 1);
    CHECK(db->number("SELECT count(*) FROM events").value() == 80);
    CHECK(db->number("SELECT count(*) FROM sqlite_schema WHERE name = 'log'").value() == 0);
  }
  sql(f.db(), "UPDATE events SET type = 'dispatched' WHERE seq = 40");
  CHECK(open_ok(f.db())->recover()->last_run_number == 3);
}

TEST_CASE("migration: an empty journal of version 1") {
  Folder f;
  put_fixture(f, "v1.db");
  sql(f.db(),
      "DELETE FROM events; DELETE FROM commits; DELETE FROM timers; DELETE FROM stages; "
      "DELETE FROM secrets; DELETE FROM runs");
  auto journal = open_ok(f.db());
  CHECK(journal->recover()->last_commit == 0);
  CHECK(commit(*journal, numbered(1)).ok());
}
