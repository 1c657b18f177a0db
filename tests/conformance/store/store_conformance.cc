// What every Store must do. Each test runs against each implementation.
#include <catch2/catch.hpp>
#include <future>

#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "storage/memory_store.h"
#include "storage/sqlite_store.h"

using namespace bp;
using namespace bp::storage;

namespace {

struct Memory {
  std::unique_ptr<Store> store = std::make_unique<MemoryStore>();
  void reopen() {}
};

struct Sqlite {
  std::string dir = "/tmp/" + random_id("bp-store");
  std::unique_ptr<Store> store;
  Sqlite() {
    REQUIRE(make_dirs(dir).ok());
    reopen();
  }
  ~Sqlite() {
    store.reset();
    CHECK(remove_tree(dir).ok());
  }
  void reopen() {
    store.reset();
    auto opened = SqliteStore::open({dir + "/journal.db", 100});
    if (!opened.ok()) FAIL(opened.error().to_string());
    store = std::move(opened).value();
  }
};

Status commit(Store& store, Batch batch) {
  std::promise<Status> done;
  auto future = done.get_future();
  store.commit(std::move(batch), [&](Status s) { done.set_value(std::move(s)); });
  REQUIRE(future.wait_for(std::chrono::seconds(10)) == std::future_status::ready);
  return future.get();
}

RunRow run(uint64_t number, const std::string& name, bool live = true,
           const std::string& key = {}) {
  RunRow r;
  r.run_id = "run-" + std::to_string(number);
  r.run_number = number;
  r.name = name;
  r.live = live;
  r.state = 2;
  r.epoch_counter = 9;
  r.created_wall_ms = 1000;
  r.updated_wall_ms = 2000;
  r.idempotency_key = key;
  r.body = std::string("body\0with zero", 14);
  return r;
}

EventRow event(uint64_t seq, const std::string& run_id, uint64_t run_seq) {
  return {seq, run_id, run_seq, 5000 + int64_t(seq), "submitted", "event " + std::to_string(seq)};
}

Batch first_run() {
  Batch b;
  b.events = {event(1, "run-1", 1)};
  b.put_runs = {run(1, "alpha", true, "key-1")};
  b.put_stages = {{"run-1", "one", 0, 1, "s1"}, {"run-1", "two", 0, 1, "s2"}};
  b.put_timers = {{"run-1", "one", 0, 2, 3, 100, 50, "boot"}};
  b.put_secrets = {{"run-1", "par-0", "sealed"}};
  b.put_meta["color"] = "blue";
  return b;
}

}  // namespace

TEMPLATE_TEST_CASE("store: what was committed is read back, also after opening again", "", Memory,
                   Sqlite) {
  TestType s;
  REQUIRE(commit(*s.store, first_run()).ok());
  s.reopen();
  auto live = s.store->load_live();
  REQUIRE(live.ok());
  REQUIRE(live->runs.size() == 1);
  const RunRow& r = live->runs[0];
  CHECK(r.run_id == "run-1");
  CHECK(r.name == "alpha");
  CHECK(r.live);
  CHECK(r.state == 2);
  CHECK(r.epoch_counter == 9);
  CHECK(r.created_wall_ms == 1000);
  CHECK(r.updated_wall_ms == 2000);
  CHECK(r.idempotency_key == "key-1");
  CHECK(r.body == std::string("body\0with zero", 14));
  REQUIRE(live->stages.size() == 2);
  CHECK(live->stages[0].body == "s1");
  REQUIRE(live->timers.size() == 1);
  const TimerRow& t = live->timers[0];
  CHECK(t.stage == "one");
  CHECK(t.kind == 2);
  CHECK(t.epoch_counter == 3);
  CHECK(t.due_boot_ms == 100);
  CHECK(t.remaining_ms == 50);
  CHECK(t.boot_id == "boot");
  CHECK(live->last_seq == 1);
  CHECK(live->last_run_number == 1);
  CHECK(live->incarnation == 1);
  CHECK(live->meta.at("color") == "blue");
  CHECK(s.store->check().value().empty());
}

TEMPLATE_TEST_CASE("store: a run is found by id, then by live name, then by the newest of its name",
                   "", Memory, Sqlite) {
  TestType s;
  Batch b;
  b.put_runs = {run(1, "alpha", false), run(2, "alpha", false), run(3, "run-1", true)};
  REQUIRE(commit(*s.store, b).ok());
  CHECK(s.store->find_run("run-1")->run_number == 1);
  CHECK(s.store->find_run("alpha")->run_number == 2);
  Batch again;
  again.put_runs = {run(1, "alpha", true)};
  REQUIRE(commit(*s.store, again).ok());
  CHECK(s.store->find_run("alpha")->run_number == 1);
  auto none = s.store->find_run("beta");
  REQUIRE(!none.ok());
  CHECK(none.error().code == ErrorCode::kNotFound);
}

TEMPLATE_TEST_CASE("store: lists are newest first and bounded", "", Memory, Sqlite) {
  TestType s;
  Batch b;
  b.put_runs = {run(1, "a"), run(2, "b", false), run(3, "c")};
  REQUIRE(commit(*s.store, b).ok());
  auto live = s.store->list_runs(false, 10).value();
  REQUIRE(live.size() == 2);
  CHECK(live[0].run_number == 3);
  auto all = s.store->list_runs(true, 2).value();
  REQUIRE(all.size() == 2);
  CHECK(all[1].run_number == 2);
}

TEMPLATE_TEST_CASE("store: an idempotency key finds its run, also when it has ended", "", Memory,
                   Sqlite) {
  TestType s;
  Batch b;
  b.put_runs = {run(1, "a", false, "k"), run(2, "b", false), run(3, "c", false)};
  REQUIRE(commit(*s.store, b).ok());
  CHECK(s.store->find_idempotency_key("k").value()->run_number == 1);
  CHECK(!s.store->find_idempotency_key("other").value().has_value());
  CHECK(!s.store->find_idempotency_key("").value().has_value());
}

TEMPLATE_TEST_CASE("store: a timer replaces the one of its kind and is dropped by name", "", Memory,
                   Sqlite) {
  TestType s;
  REQUIRE(commit(*s.store, first_run()).ok());
  Batch replace;
  replace.put_timers = {{"run-1", "one", 0, 2, 4, 999, 5, "boot2"},
                        {"run-1", "two", 0, 2, 4, 1, 1, "boot2"}};
  REQUIRE(commit(*s.store, replace).ok());
  CHECK(s.store->load_live()->timers.size() == 2);
  Batch drop;
  drop.drop_timers = {{"run-1", "one", 0, 2}};
  REQUIRE(commit(*s.store, drop).ok());
  auto timers = s.store->load_live()->timers;
  REQUIRE(timers.size() == 1);
  CHECK(timers[0].stage == "two");
}

TEMPLATE_TEST_CASE("store: events are paged in their order", "", Memory, Sqlite) {
  TestType s;
  Batch b = first_run();
  for (uint64_t i = 2; i <= 10; ++i) b.events.push_back(event(i, "run-1", i));
  b.events.push_back(event(11, "run-2", 1));
  b.put_runs.push_back(run(2, "beta"));
  b.put_stages.push_back({"run-2", "one", 0, 1, ""});
  REQUIRE(commit(*s.store, b).ok());
  auto page = s.store->events_of("run-1", 3, 4).value();
  REQUIRE(page.size() == 4);
  CHECK(page[0].run_seq == 4);
  CHECK(page[0].seq == 4);
  CHECK(page[0].body == "event 4");
  CHECK(page[0].type == "submitted");
  CHECK(page[0].wall_ms == 5004);
  CHECK(page[3].run_seq == 7);
  CHECK(s.store->events_of("run-2", 0, 100).value().size() == 1);
  CHECK(s.store->check().value().empty());
}

TEMPLATE_TEST_CASE("store: secrets are kept by run and dropped with it", "", Memory, Sqlite) {
  TestType s;
  REQUIRE(commit(*s.store, first_run()).ok());
  Batch b;
  b.put_secrets = {{"run-1", "par-0", "other"}, {"run-9", "key", "x"}};
  REQUIRE(commit(*s.store, b).ok());
  CHECK(s.store->secrets_of("run-1").value().at("par-0") == "other");
  Batch drop;
  drop.drop_secrets_of_runs = {"run-1"};
  REQUIRE(commit(*s.store, drop).ok());
  CHECK(s.store->secrets_of("run-1").value().empty());
  CHECK(s.store->secrets_of("run-9").value().size() == 1);
}

TEMPLATE_TEST_CASE("store: commits are answered in their order", "", Memory, Sqlite) {
  TestType s;
  std::vector<int> order;
  std::promise<void> all;
  for (int i = 0; i < 200; ++i) {
    Batch b;
    b.put_meta["n"] = std::to_string(i);
    s.store->commit(b, [&, i](Status ok) {
      CHECK(ok.ok());
      order.push_back(i);
      if (i == 199) all.set_value();
    });
  }
  REQUIRE(all.get_future().wait_for(std::chrono::seconds(10)) == std::future_status::ready);
  for (int i = 0; i < 200; ++i) CHECK(order[size_t(i)] == i);
  CHECK(s.store->load_live()->meta.at("n") == "199");
}

TEMPLATE_TEST_CASE("store: what breaks a rule is refused whole, and so is everything after it", "",
                   Memory, Sqlite) {
  TestType s;
  REQUIRE(commit(*s.store, first_run()).ok());
  Batch bad;
  SECTION("two live runs of one name") { bad.put_runs = {run(2, "alpha")}; }
  SECTION("two runs of one number") {
    bad.put_runs = {run(1, "beta")};
    bad.put_runs[0].run_id = "run-x";
  }
  SECTION("two runs of one idempotency key") { bad.put_runs = {run(2, "beta", true, "key-1")}; }
  SECTION("an event out of order") { bad.events = {event(3, "run-1", 2)}; }
  SECTION("a gap in a run's events") { bad.events = {event(2, "run-1", 3)}; }
  SECTION("a stage of no run") { bad.put_stages = {{"run-9", "one", 0, 1, ""}}; }
  bad.put_meta["color"] = "red";
  Status refused = commit(*s.store, bad);
  REQUIRE(!refused.ok());
  CHECK(refused.error().code == ErrorCode::kJournal);
  Batch fine;
  fine.put_meta["color"] = "green";
  CHECK(!commit(*s.store, fine).ok());
  CHECK(s.store->load_live()->meta.at("color") == "blue");
}
