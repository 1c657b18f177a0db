#include <catch2/catch.hpp>

#include "tests/unit/engine_api/fixture.h"

namespace bp::shell {
namespace {

constexpr int64_t kMinute = 60'000;

struct Fixture {
  VirtualTime time;
  Nothing nothing;
  storage::MemoryJournal journal;
  std::unique_ptr<Life> life;

  Fixture() { begin(); }
  void begin() {
    life.reset();
    time.due.clear();
    life = std::make_unique<Life>(time, nothing, journal);
    life->load();
  }
  v1::Schedule put(v1::Overlap overlap, int64_t catch_up_ms = 0) {
    v1::ClientRequest q;
    auto* s = q.mutable_put_schedule()->mutable_schedule();
    s->set_name("often");
    s->set_cron("*/10 * * * *");
    s->set_overlap(overlap);
    s->set_catch_up_ms(catch_up_ms);
    s->mutable_run()->set_workflow("line");
    auto r = life->ask_one(q);
    INFO(r.error().message());
    REQUIRE(r.schedules().schedules_size() == 1);
    return r.schedules().schedules(0);
  }
  v1::Schedule show() {
    v1::ClientRequest q;
    q.mutable_list_schedules()->set_name("often");
    q.mutable_list_schedules()->set_upcoming(3);
    return life->ask_one(q).schedules().schedules(0);
  }
  void run_through(const std::string& id) {
    for (const char* stage : {"a", "b", "c"}) life->finish(id, stage, "done");
  }
};

TEST_CASE("a schedule starts a run at each due time") {
  Fixture f;
  auto s = f.put(v1::OVERLAP_ALLOW);
  CHECK(s.next_due_wall_ms() % (10 * kMinute) == 0);
  f.time.pass(30 * kMinute);
  CHECK(f.life->started.size() == 3);
  CHECK(f.show().started() == 3);
  CHECK(f.show().skipped() == 0);
}

TEST_CASE("overlap: skip leaves out, buffer-one starts one more at the end, cancel-other ends it") {
  Fixture f;
  SECTION("skip") {
    f.put(v1::OVERLAP_SKIP);
    f.time.pass(30 * kMinute);
    REQUIRE(f.life->started.size() == 1);
    CHECK(f.show().skipped() == 2);
    f.run_through(f.life->started[0]);
    f.time.pass(10 * kMinute);
    CHECK(f.life->started.size() == 2);
  }
  SECTION("buffer one") {
    f.put(v1::OVERLAP_BUFFER_ONE);
    f.time.pass(30 * kMinute);
    REQUIRE(f.life->started.size() == 1);
    CHECK(f.show().buffered());
    f.run_through(f.life->started[0]);
    f.time.pass(1);
    CHECK(f.life->started.size() == 2);
    CHECK_FALSE(f.show().buffered());
  }
  SECTION("cancel other") {
    f.put(v1::OVERLAP_CANCEL_OTHER);
    f.time.pass(20 * kMinute);
    REQUIRE(f.life->started.size() == 2);
    auto row = f.life->conductor.find_ended(f.life->started[0]);
    REQUIRE(row.ok());
    CHECK(row->state == v1::RUN_STATE_CANCELLED);
  }
}

TEST_CASE("a due time starts one run, however often the daemon dies") {
  Fixture f;
  f.put(v1::OVERLAP_ALLOW);
  f.time.pass(10 * kMinute);
  REQUIRE(f.life->started.size() == 1);
  const std::string first = f.life->started[0];
  f.begin();
  CHECK(f.show().last_run_id() == first);
  CHECK(f.show().started() == 1);
  f.time.pass(5 * kMinute);
  CHECK(f.life->started.empty());
  // Its commit was lost with the daemon: the due time comes again.
  f.journal.hold();
  f.time.pass(5 * kMinute + 10'000);
  REQUIRE(f.life->started.size() == 1);
  f.journal.drop_held();
  f.begin();
  f.time.pass(1'000);
  CHECK(f.life->started.size() == 1);
  CHECK(f.show().started() == 2);
}

TEST_CASE(
    "what was missed while nobody looked is not started, but for the newest within catch-up") {
  Fixture f;
  SECTION("none without catch-up") {
    f.put(v1::OVERLAP_ALLOW);
    f.time.due.clear();  // the daemon is down
    f.time.wall += 5 * 60 * kMinute + 3 * kMinute;
    f.begin();
    CHECK(f.life->started.empty());
  }
  SECTION("one of those missed, the newest") {
    f.put(v1::OVERLAP_ALLOW, 60 * kMinute);
    f.time.due.clear();
    f.time.wall += 5 * 60 * kMinute + kMinute;
    f.begin();
    CHECK(f.life->started.size() == 1);
    CHECK(f.show().last_due_wall_ms() <= f.time.wall);
    CHECK(f.show().last_due_wall_ms() > f.time.wall - 10 * kMinute);
  }
}

TEST_CASE("the wall clock is put back by hours: no due time starts a second run") {
  Fixture f;
  f.put(v1::OVERLAP_ALLOW);
  f.time.pass(20 * kMinute);
  REQUIRE(f.life->started.size() == 2);
  f.time.wall -= 2 * 60 * kMinute;
  f.time.pass(2 * 60 * kMinute);
  CHECK(f.life->started.size() == 2);
  f.time.pass(10 * kMinute);
  CHECK(f.life->started.size() == 3);
}

TEST_CASE(
    "a paused schedule starts nothing; a trigger starts one run per key; a dropped one is gone") {
  Fixture f;
  auto s = f.put(v1::OVERLAP_ALLOW);
  v1::ClientRequest q;
  *q.mutable_put_schedule()->mutable_schedule() = s;
  q.mutable_put_schedule()->mutable_schedule()->set_paused(true);
  f.life->ask_one(q);
  f.time.pass(30 * kMinute);
  CHECK(f.life->started.empty());
  v1::ClientRequest t;
  t.mutable_trigger_schedule()->set_name("often");
  t.mutable_trigger_schedule()->set_request_key("k1");
  const std::string id = f.life->ask_one(t).runs_submitted().runs(0).run_id();
  CHECK(f.life->ask_one(t).runs_submitted().runs(0).run_id() == id);
  v1::ClientRequest d;
  d.mutable_put_schedule()->set_drop(true);
  d.mutable_put_schedule()->mutable_schedule()->set_name("often");
  CHECK_FALSE(f.life->ask_one(d).has_error());
  CHECK(f.life->ask_one(d).error().code() == "BP_NOT_FOUND");
  f.begin();
  CHECK(f.life->ask_one(t).error().code() == "BP_NOT_FOUND");
}

TEST_CASE("a schedule that cannot be is refused") {
  Fixture f;
  auto refused = [&](auto change) {
    v1::ClientRequest q;
    auto* s = q.mutable_put_schedule()->mutable_schedule();
    s->set_name("x");
    s->set_cron("0 0 * * *");
    s->mutable_run()->set_workflow("line");
    change(s);
    return f.life->ask_one(q).error().message();
  };
  CHECK(refused([](auto* s) { s->set_cron("bogus"); }).find("fields") != std::string::npos);
  CHECK(refused([](auto* s) { s->set_zone("Mars/Base"); }).find("Mars/Base") != std::string::npos);
  CHECK(refused([](auto* s) { s->set_name(""); }).find("name") != std::string::npos);
  CHECK(refused([](auto* s) { s->set_catch_up_ms(-1); }).find("catch_up_ms") != std::string::npos);
  CHECK(refused([](auto* s) { s->mutable_run()->set_workflow("nope"); }).find("nope") !=
        std::string::npos);
  CHECK(refused([](auto* s) {
          (*s->mutable_run()->mutable_secrets())["k"] = "v";
        }).find("secrets") != std::string::npos);
}

}  // namespace
}  // namespace bp::shell
