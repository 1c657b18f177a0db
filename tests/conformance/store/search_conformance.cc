// What every Journal must find among ended runs.
#include "tests/conformance/store/journals.h"

using namespace bp;
using namespace bp::storage;
using namespace bp::storage::test;

TEMPLATE_TEST_CASE("journal: ended runs are found by number, key and every filter", "",
                   BP_JOURNALS) {
  TestType s;
  for (uint64_t n = 1; n <= 6; ++n) {
    Commit c = numbered(n);
    c.wall_ms = kNow + 10'000;
    for (uint64_t run = n * 10; run < n * 10 + 10; ++run) {
      c.entries.push_back(entry(run, 1, 0));
      c.ended.push_back(ended(run, n, run % 10 == 0 ? 8 : 5));
      if (run % 10 == 0) c.ended.back().error_code = "BP_IO";
      if (run % 10 == 1) c.ended.back().idempotency_key = "key-" + std::to_string(run);
    }
    REQUIRE(commit(*s.journal, c).ok());
    if (n == 3) s.settle();
    if (n == 4) s.reopen();
  }
  s.settle();
  Journal& j = *s.journal;
  CHECK(j.searchable_up_to() == 6);
  EndedQuery q;
  q.limit = 3;
  CHECK(numbers(j.ended(q).value()) == std::vector<uint64_t>{69, 68, 67});
  q.before_run_number = 11;
  CHECK(numbers(j.ended(q).value()) == std::vector<uint64_t>{10});
  EndedQuery failed;
  failed.states = {8};
  CHECK(numbers(j.ended(failed).value()) == std::vector<uint64_t>{60, 50, 40, 30, 20, 10});
  failed.states = {8, 5};
  CHECK(j.ended(failed)->size() == 60);
  EndedQuery error;
  error.error_code = "BP_IO";
  error.before_run_number = 50;
  error.limit = 2;
  CHECK(numbers(j.ended(error).value()) == std::vector<uint64_t>{40, 30});
  EndedQuery name;
  name.name = "name-33";
  CHECK(numbers(j.ended(name).value()) == std::vector<uint64_t>{33});
  EndedQuery labels;
  labels.labels = {{"team", "b"}};
  labels.workflow = "odd";
  for (uint64_t run : numbers(j.ended(labels).value())) CHECK((run % 3 == 0 && run % 2 == 1));
  CHECK(j.ended(labels)->size() == 10);
  labels.labels["n"] = "39";
  CHECK(numbers(j.ended(labels).value()) == std::vector<uint64_t>{39});
  EndedQuery time;
  time.created_from_wall_ms = kNow + 20'000;
  time.created_to_wall_ms = kNow + 22'000;
  CHECK(numbers(j.ended(time).value()) == std::vector<uint64_t>{22, 21, 20});
  time.ended_from_wall_ms = kNow + 21'500;
  CHECK(numbers(j.ended(time).value()) == std::vector<uint64_t>{22, 21});
  auto one = j.ended_by_number(33).value();
  REQUIRE(one.has_value());
  CHECK(one->run_id == "r33-abc123");
  CHECK(one->workflow == "odd");
  CHECK(one->labels.at("n") == "33");
  CHECK(one->created_wall_ms == kNow + 33'000);
  CHECK(one->ended_wall_ms == kNow + 33'500);
  CHECK(one->last_commit == 3);
  CHECK(!j.ended_by_number(7).value().has_value());
  CHECK(j.ended_by_key("key-31").value()->run_number == 31);
  CHECK(!j.ended_by_key("key-32").value().has_value());
  CHECK(!j.ended_by_key("").value().has_value());
  CHECK(j.ended_counts().value() == std::map<int, uint64_t>{{5, 54}, {8, 6}});
}

TEMPLATE_TEST_CASE("journal: a run that lives again leaves the search and comes back changed", "",
                   BP_JOURNALS) {
  TestType s;
  Commit one = numbered(1);
  one.entries = {entry(1, 1, 0)};
  one.ended = {ended(1, 1, 8)};
  REQUIRE(commit(*s.journal, one).ok());
  s.settle();
  Commit two = numbered(2);
  two.entries = {entry(1, 2, 1)};
  two.revived = {1};
  REQUIRE(commit(*s.journal, two).ok());
  s.settle();
  CHECK(s.journal->ended({}).value().empty());
  CHECK(s.journal->ended_counts().value().empty());
  Commit three = numbered(3);
  three.entries = {entry(1, 3, 2)};
  three.ended = {ended(1, 3, 5)};
  REQUIRE(commit(*s.journal, three).ok());
  s.settle();
  EndedQuery failed;
  failed.states = {8};
  CHECK(s.journal->ended(failed).value().empty());
  CHECK(s.journal->ended_by_number(1).value()->last_commit == 3);
  CHECK(s.journal->ended_counts().value() == std::map<int, uint64_t>{{5, 1}});
}

TEMPLATE_TEST_CASE("journal: a key names its run for a day and no longer", "", BP_JOURNALS) {
  TestType s;
  Commit one = numbered(1);
  one.entries = {entry(1, 1, 0)};
  one.ended = {ended(1, 1)};
  one.ended[0].idempotency_key = "k";
  REQUIRE(commit(*s.journal, one).ok());
  s.settle();
  const int64_t end = one.ended[0].ended_wall_ms;
  Commit two = numbered(2);
  two.wall_ms = end + kKeyKeptMs;
  REQUIRE(commit(*s.journal, two).ok());
  CHECK(s.journal->ended_by_key("k").value()->run_number == 1);
  s.reopen();
  CHECK(s.journal->ended_by_key("k").value()->run_number == 1);
  Commit three = numbered(3);
  three.wall_ms = end + kKeyKeptMs + 1;
  REQUIRE(commit(*s.journal, three).ok());
  CHECK(!s.journal->ended_by_key("k").value().has_value());
}
