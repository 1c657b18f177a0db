// What every Journal must do. Each test runs against each implementation.
#include "tests/conformance/store/journals.h"

using namespace bp;
using namespace bp::storage;
using namespace bp::storage::test;

TEMPLATE_TEST_CASE("journal: an empty one recovers to nothing", "", BP_JOURNALS) {
  TestType s;
  auto r = s.journal->recover();
  REQUIRE(r.ok());
  CHECK(r->live.empty());
  CHECK(r->last_commit == 0);
  CHECK(r->last_run_number == 0);
  CHECK(r->incarnation == 1);
  CHECK(s.journal->check({}).value().empty());
  CHECK(s.journal->ended({}).value().empty());
}

TEMPLATE_TEST_CASE("journal: what was committed is read back, also after opening again", "",
                   BP_JOURNALS) {
  TestType s;
  REQUIRE(commit(*s.journal, first()).ok());
  s.reopen();
  auto r = s.journal->recover();
  REQUIRE(r.ok());
  REQUIRE(r->live.size() == 1);
  const LiveRow& row = r->live[0];
  CHECK(row.run_number == 1);
  CHECK(row.run_id == "r1-abc123");
  CHECK(row.name == "name-1");
  CHECK(row.state == 2);
  CHECK(row.run_seq == 1);
  CHECK(row.last_commit == 1);
  CHECK(row.next.actor == Actor::kStageHost);
  CHECK(row.next.by_boot_ms == 1234);
  CHECK(row.why == "stage one runs");
  CHECK(row.body == std::string("body\0with zero", 14));
  CHECK(r->last_commit == 1);
  CHECK(r->replay_from == 1);
  CHECK(r->last_run_number == 2);
  CHECK(r->incarnation == 1);
  CHECK(r->meta.at("color") == "blue");
  CHECK(s.journal->secrets_of(1).value().at("par-0") == "sealed");
  CHECK(s.journal->secrets_of(2).value().empty());
  CHECK(s.journal->blob("abcd").value()->size() == 100'000);
  CHECK(!s.journal->blob("ef").value().has_value());
  CHECK(!s.journal->number_of_old_id("nobody").value().has_value());
  CHECK(s.journal->check({}).value().empty());
}

TEMPLATE_TEST_CASE("journal: the log is read in order, from and to where one wants", "",
                   BP_JOURNALS) {
  TestType s;
  REQUIRE(commit(*s.journal, first()).ok());
  for (uint64_t n = 2; n <= 200; ++n) {
    Commit c = numbered(n);
    c.entries = {entry(1, n, n - 1)};
    REQUIRE(commit(*s.journal, c).ok());
  }
  std::vector<uint64_t> seen;
  auto collect = [&](const LogRecord& r) -> Status {
    seen.push_back(r.number);
    if (r.number == 1) {
      REQUIRE(r.entries.size() == 3);
      const Entry& e = r.entries[0];
      CHECK(e.body == std::string("one\0byte", 8));
      CHECK(e.run_number == 1);
      CHECK(e.run_seq == 1);
      CHECK(e.previous_commit == 0);
      CHECK(e.wall_ms == kNow + 1);
      CHECK(e.type == 10);
      CHECK(e.next.actor == Actor::kDaemon);
      CHECK(e.next.by_boot_ms == 77);
      CHECK(e.body_hash.empty());
      CHECK(r.entries[2].run_number == 0);
    }
    if (r.number == 190) return Error{ErrorCode::kCancelled, "enough", {}};
    return {};
  };
  Status stopped = s.journal->read_log(1, UINT64_MAX, collect);
  REQUIRE(!stopped.ok());
  CHECK(stopped.error().code == ErrorCode::kCancelled);
  REQUIRE(seen.size() == 190);
  for (size_t i = 0; i < seen.size(); ++i) CHECK(seen[i] == i + 1);
  seen.clear();
  REQUIRE(s.journal->read_log(5, 7, collect).ok());
  CHECK(seen == std::vector<uint64_t>{5, 6, 7});
  seen.clear();
  REQUIRE(s.journal->read_log(201, 300, collect).ok());
  CHECK(seen.empty());
}

TEMPLATE_TEST_CASE("journal: a run's history hangs together over commits and within one", "",
                   BP_JOURNALS) {
  TestType s;
  REQUIRE(commit(*s.journal, first()).ok());
  Commit two = numbered(2);
  two.entries = {entry(2, 2, 1), entry(1, 2, 1), entry(1, 3, 2)};
  REQUIRE(commit(*s.journal, two).ok());
  Commit three = numbered(3);
  three.entries = {entry(2, 3, 2)};
  REQUIRE(commit(*s.journal, three).ok());
  Commit four = numbered(4);
  four.entries = {entry(1, 4, 2)};
  REQUIRE(commit(*s.journal, four).ok());
  auto all = s.journal->history(1, 4, 0);
  REQUIRE(all.ok());
  REQUIRE(all->size() == 4);
  for (uint64_t i = 0; i < 4; ++i) CHECK((*all)[i].run_seq == i + 1);
  CHECK((*all)[3].body == "event 4");
  auto some = s.journal->history(1, 4, 2).value();
  REQUIRE(some.size() == 2);
  CHECK(some[0].run_seq == 3);
  CHECK(s.journal->history(2, 3, 0).value().size() == 3);
  CHECK(s.journal->history(2, 3, 3).value().empty());
  CHECK(s.journal->history(1, 99, 0).error().code == ErrorCode::kNotFound);
  CHECK(s.journal->history(7, 4, 0).error().code == ErrorCode::kJournal);
  CHECK(s.journal->check({}).value().empty());
}

TEMPLATE_TEST_CASE("journal: rows, secrets, meta and blobs are replaced and dropped", "",
                   BP_JOURNALS) {
  TestType s;
  REQUIRE(commit(*s.journal, first()).ok());
  Commit two = numbered(2);
  two.entries = {entry(1, 2, 1)};
  two.put_live = {live(1, 2, 2), live(2, 1, 1)};
  two.put_live[0].why = "other";
  two.put_secrets = {{1, "par-0", "other"}, {2, "key", "x"}};
  two.put_meta["color"] = "green";
  two.put_meta["size"] = "9";
  REQUIRE(commit(*s.journal, two).ok());
  CHECK(s.journal->recover()->live.size() == 2);
  CHECK(s.journal->recover()->live[0].why == "other");
  CHECK(s.journal->recover()->live[0].run_seq == 2);
  CHECK(s.journal->secrets_of(1).value().at("par-0") == "other");
  Commit three = numbered(3);
  three.drop_live = {1, 9};
  three.drop_secrets_of_runs = {1};
  three.drop_meta = {"size"};
  three.drop_blobs = {"abcd"};
  REQUIRE(commit(*s.journal, three).ok());
  auto r = s.journal->recover();
  REQUIRE(r->live.size() == 1);
  CHECK(r->live[0].run_number == 2);
  CHECK(r->meta == std::map<std::string, std::string>{{"color", "green"}});
  CHECK(s.journal->secrets_of(1).value().empty());
  CHECK(s.journal->secrets_of(2).value().size() == 1);
  CHECK(!s.journal->blob("abcd").value().has_value());
}

TEMPLATE_TEST_CASE("journal: commits are answered in their order", "", BP_JOURNALS) {
  TestType s;
  std::vector<int> order;
  std::promise<void> all;
  for (int i = 0; i < 200; ++i) {
    Commit c = numbered(uint64_t(i) + 1);
    c.put_meta["n"] = std::to_string(i);
    s.journal->commit(std::move(c), [&, i](Status ok) {
      CHECK(ok.ok());
      order.push_back(i);
      if (i == 199) all.set_value();
    });
  }
  REQUIRE(all.get_future().wait_for(std::chrono::seconds(10)) == std::future_status::ready);
  for (int i = 0; i < 200; ++i) CHECK(order[size_t(i)] == i);
  CHECK(s.journal->recover()->meta.at("n") == "199");
}

TEMPLATE_TEST_CASE("journal: what breaks a rule is refused whole, and so is everything after it",
                   "", BP_JOURNALS) {
  TestType s;
  REQUIRE(commit(*s.journal, first()).ok());
  Commit bad = numbered(2);
  bad.entries = {entry(1, 2, 1)};
  SECTION("a number that does not follow") { bad.number = 3; }
  SECTION("a number twice") { bad.number = 1; }
  SECTION("a tail from the future") { bad.replay_from = 3; }
  SECTION("an entry that hangs on a commit to come") { bad.entries[0].previous_commit = 3; }
  SECTION("an entry that hangs on nothing") { bad.entries[0].previous_commit = 0; }
  SECTION("an entry without a type") { bad.entries[0].type = 0; }
  SECTION("an entry that nobody follows") { bad.entries[0].next.actor = Actor(0); }
  SECTION("an unknown actor") { bad.entries[0].next.actor = Actor(8); }
  SECTION("an actor without a limit") { bad.entries[0].next = {Actor::kStageHost, 0}; }
  SECTION("a live row that nobody must act on") {
    bad.put_live = {live(1, 2, 2)};
    bad.put_live[0].next.actor = Actor::kNobody;
  }
  SECTION("a live row without a limit") {
    bad.put_live = {live(1, 2, 2)};
    bad.put_live[0].next = {Actor::kTimer, 0};
  }
  SECTION("a live row without a reason") {
    bad.put_live = {live(1, 2, 2)};
    bad.put_live[0].why = "";
  }
  SECTION("a live row without a state") {
    bad.put_live = {live(1, 2, 2)};
    bad.put_live[0].state = 0;
  }
  SECTION("a summary of no run") { bad.ended = {ended(0, 2)}; }
  bad.put_meta["color"] = "red";
  Status refused = commit(*s.journal, bad);
  REQUIRE(!refused.ok());
  CHECK(refused.error().code == ErrorCode::kJournal);
  Commit fine = numbered(2);
  fine.put_meta["color"] = "green";
  CHECK(!commit(*s.journal, fine).ok());
  CHECK(s.journal->recover()->meta.at("color") == "blue");
  CHECK(s.journal->recover()->last_commit == 1);
}

TEMPLATE_TEST_CASE("journal: actors that may wait without a limit", "", BP_JOURNALS) {
  TestType s;
  uint64_t n = 0;
  for (Actor a : {Actor::kSignal, Actor::kPerson, Actor::kApplications}) {
    Commit c = numbered(++n);
    c.entries = {entry(n, 1, 0)};
    c.entries[0].next = {a, 0};
    c.put_live = {live(n, 1, n)};
    c.put_live[0].next = {a, 0};
    CHECK(commit(*s.journal, c).ok());
  }
  CHECK(s.journal->recover()->live.size() == 3);
}
