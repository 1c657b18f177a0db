#include "tests/unit/core/core_fixture.h"

using namespace bp;
using namespace bp::core;

TEST_CASE("core: a retriable failure waits for its timer, then tries again with a new epoch") {
  Driver d;
  d.submit();
  d.start("check");
  v1::Epoch old = d.epoch("check");
  d.fail("check");
  CHECK(d.at("check") == v1::STAGE_STATE_BACKOFF);
  CHECK(d.actions<DispatchAttempt>().empty());
  REQUIRE(d.timer("check", v1::TIMER_KIND_RETRY));
  CHECK(d.timer("check", v1::TIMER_KIND_RETRY)->due_boot_ms == d.now + 100);
  d.fire("check", v1::TIMER_KIND_RETRY);
  CHECK(d.at("check") == v1::STAGE_STATE_QUEUED);
  CHECK(d.epoch("check").counter() == old.counter() + 1);
  CHECK(d.action<DispatchAttempt>()->ref.attempt == 2);
}

TEST_CASE(
    "core: delays grow by the multiplier up to the ceiling, with a jitter that repeats itself") {
  Driver d;
  d.submit();
  v1::RetryPolicy p = line_workflow().stages(0).retry();
  CHECK(retry_delay_ms(p, d.state, d.key("check"), 1) == 100);
  CHECK(retry_delay_ms(p, d.state, d.key("check"), 3) == 400);
  CHECK(retry_delay_ms(p, d.state, d.key("check"), 60) == 1000);
  p.set_jitter(0.2);
  std::set<int64_t> seen;
  for (uint32_t i = 20; i < 60; ++i) {
    const int64_t delay = retry_delay_ms(p, d.state, d.key("check"), i);
    CHECK(delay >= 800);
    CHECK(delay <= 1200);
    CHECK(delay == retry_delay_ms(p, d.state, d.key("check"), i));
    seen.insert(delay);
  }
  CHECK(seen.size() > 20);
}

TEST_CASE(
    "core: after the last attempt the run fails, keeps the error, and destroys what was made") {
  Driver d;
  d.submit();
  d.run_stage("check");
  d.run_stage("make", "nodes");
  for (int i = 0; i < 2; ++i) {
    d.start("link");
    d.fail("link");
    d.fire("link", v1::TIMER_KIND_RETRY);
  }
  d.start("link");
  d.fail("link");
  CHECK(d.state.n.state == v1::RUN_STATE_STOPPING);
  CHECK(d.state.error()->message() == "it broke");
  REQUIRE(d.action<DispatchAttempt>());
  CHECK(d.action<DispatchAttempt>()->ref.stage == "link");
  CHECK(d.action<DispatchAttempt>()->mode == v1::ATTEMPT_MODE_DESTROY);
  d.run_stage("link");
  CHECK(d.action<DispatchAttempt>()->ref.stage == "make");
  CHECK(run_attempt_message(d.state, d.key("make")).handle() == "nodes");
  d.run_stage("make");
  CHECK(d.state.n.state == v1::RUN_STATE_FAILED);
  CHECK(is_ended(d.state.n.state));
  CHECK(d.state.error()->message() == "it broke");
  CHECK(d.at("check") == v1::STAGE_STATE_SUCCEEDED);
  CHECK(d.at("make") == v1::STAGE_STATE_DESTROYED);
  CHECK(d.at("serve") == v1::STAGE_STATE_SKIPPED);
}

TEST_CASE("core: a failure that no retry can mend is final at once") {
  Driver d;
  d.submit();
  d.start("check");
  d.fail("check", "BP_INVALID_RECIPE", false);
  CHECK(d.state.n.state == v1::RUN_STATE_FAILED);
  CHECK(d.state.error()->code() == "BP_INVALID_RECIPE");
}

TEST_CASE("core: final codes of the definition are never tried again") {
  v1::WorkflowDefinition w = line_workflow();
  w.mutable_stages(0)->mutable_retry()->add_final_codes("BP_DISK_FULL");
  Driver d;
  d.submit(w);
  d.start("check");
  d.fail("check", "BP_DISK_FULL");
  CHECK(d.state.n.state == v1::RUN_STATE_FAILED);
}

TEST_CASE("core: a late result is fenced, put on record once, and acknowledged") {
  Driver d;
  d.submit();
  d.start("check");
  v1::Epoch old = d.epoch("check");
  d.lost("check");
  CHECK(d.at("check") == v1::STAGE_STATE_BACKOFF);
  CHECK(d.stage("check").error()->code() == "BP_PLUGIN_CRASH");
  d.fire("check", v1::TIMER_KIND_RETRY);
  d.start("check");
  v1::Epoch foreign = old;
  foreign.set_incarnation(7);
  foreign.set_counter(99);
  v1::Event late = d.ended_event("check", foreign);
  late.mutable_ended()->set_succeeded(true);
  d.feed(late);
  CHECK(d.last.changed);
  CHECK(d.last.record.has_ended_was_late());
  CHECK(d.action<AckResult>()->ref.epoch.counter() == 99);
  CHECK(d.at("check") == v1::STAGE_STATE_RUNNING);
  d.feed(late);
  CHECK(!d.last.changed);
  CHECK(d.action<AckResult>());
}

TEST_CASE("core: each timeout cancels the attempt, and the next one waits for proof of death") {
  v1::WorkflowDefinition w = line_workflow();
  w.mutable_stages(0)->set_run_timeout_ms(5000);
  w.mutable_stages(0)->set_heartbeat_timeout_ms(1500);
  Driver d;
  d.submit(w);
  d.start("check");
  const v1::Epoch old = d.epoch("check");
  int64_t grace = kCancelGraceMs;
  SECTION("run") { d.fire("check", v1::TIMER_KIND_RUN); }
  SECTION("heartbeat") {
    d.feed(Driver::fired("check", v1::TIMER_KIND_HEARTBEAT, old.counter()));
    grace = kHungGraceMs;
  }
  CHECK(d.at("check") == v1::STAGE_STATE_CANCELLING);
  REQUIRE(d.action<CancelAttempt>());
  CHECK(d.action<CancelAttempt>()->grace_ms == grace);
  CHECK(d.action<CancelAttempt>()->ref.host.pid() != 0);
  CHECK(d.actions<DispatchAttempt>().empty());
  d.fire("check", v1::TIMER_KIND_CANCEL);
  REQUIRE(d.action<KillHost>());
  d.fire("check", v1::TIMER_KIND_CANCEL);  // not confirmed: once more
  REQUIRE(d.action<KillHost>());
  CHECK(d.at("check") == v1::STAGE_STATE_CANCELLING);
  d.lost("check");
  CHECK(d.at("check") == v1::STAGE_STATE_BACKOFF);
  CHECK(d.stage("check").error()->code() == "BP_DEADLINE_EXCEEDED");
  CHECK(!d.timer("check", v1::TIMER_KIND_CANCEL));
}

TEST_CASE("core: an attempt that succeeds although it was told to end has succeeded") {
  v1::WorkflowDefinition w = line_workflow();
  w.mutable_stages(0)->set_run_timeout_ms(5000);
  Driver d;
  d.submit(w);
  d.start("check");
  d.fire("check", v1::TIMER_KIND_RUN);
  d.succeed("check");
  CHECK(d.at("check") == v1::STAGE_STATE_SUCCEEDED);
  CHECK(d.at("make") == v1::STAGE_STATE_QUEUED);
}

TEST_CASE(
    "core: an attempt that finds no host in time is tried again, and a late dispatch is ignored") {
  v1::WorkflowDefinition w = line_workflow();
  w.mutable_stages(0)->set_queue_timeout_ms(3000);
  Driver d;
  d.submit(w);
  v1::Event late;
  late.mutable_dispatched()->set_stage("check");
  *late.mutable_dispatched()->mutable_epoch() = d.epoch("check");
  d.fire("check", v1::TIMER_KIND_QUEUE);
  CHECK(d.at("check") == v1::STAGE_STATE_BACKOFF);
  CHECK(!d.feed(late).changed);
  CHECK(d.actions<StartHost>().empty());
}

TEST_CASE("core: the total time covers all attempts together and is final") {
  v1::WorkflowDefinition w = line_workflow();
  w.mutable_stages(0)->set_total_timeout_ms(60'000);
  Driver d;
  d.submit(w);
  const int64_t due = d.timer("check", v1::TIMER_KIND_TOTAL)->due_boot_ms;
  d.start("check");
  d.fail("check");
  d.fire("check", v1::TIMER_KIND_RETRY);
  CHECK(d.timer("check", v1::TIMER_KIND_TOTAL)->due_boot_ms == due);
  SECTION("while it runs") {
    d.start("check");
    d.fire("check", v1::TIMER_KIND_TOTAL);
    CHECK(d.at("check") == v1::STAGE_STATE_CANCELLING);
    d.cancelled("check");
  }
  SECTION("while it waits") { d.fire("check", v1::TIMER_KIND_TOTAL); }
  CHECK(d.state.n.state == v1::RUN_STATE_FAILED);
  CHECK(d.state.error()->code() == "BP_DEADLINE_EXCEEDED");
}

TEST_CASE("core: a timer of an older attempt is ignored") {
  v1::WorkflowDefinition w = line_workflow();
  w.mutable_stages(0)->set_run_timeout_ms(5000);
  Driver d;
  d.submit(w);
  d.start("check");
  const uint64_t old = d.epoch("check").counter();
  d.fail("check");
  d.fire("check", v1::TIMER_KIND_RETRY);
  d.start("check");
  CHECK(!d.feed(Driver::fired("check", v1::TIMER_KIND_RUN, old)).changed);
  CHECK(!d.feed(Driver::fired("check", v1::TIMER_KIND_HEARTBEAT, old)).changed);
  CHECK(d.at("check") == v1::STAGE_STATE_RUNNING);
}

TEST_CASE(
    "core: a ready stage that loses its host gets a new attempt at once, without using up a "
    "retry") {
  Driver d;
  d.serve();
  d.now += 10'000;
  for (int i = 0; i < 10; ++i) {
    d.lost("serve");
    CHECK(d.at("serve") == v1::STAGE_STATE_QUEUED);
    CHECK(d.state.n.state == v1::RUN_STATE_RUNNING);
    d.start("serve");
    d.ready("serve");
    CHECK(d.state.n.state == v1::RUN_STATE_SERVING);
    d.now += 10'000;
  }
}

TEST_CASE("core: losses that follow one another closely wait longer and longer") {
  Driver d;
  d.serve();
  d.lost("serve");
  CHECK(d.at("serve") == v1::STAGE_STATE_QUEUED);
  d.start("serve");
  d.ready("serve");
  d.lost("serve");
  CHECK(d.at("serve") == v1::STAGE_STATE_BACKOFF);
  d.fire("serve", v1::TIMER_KIND_RETRY);
  CHECK(d.at("serve") == v1::STAGE_STATE_QUEUED);
}

TEST_CASE("core: a stage that should keep running but ends is tried again") {
  Driver d;
  d.serve();
  d.succeed("serve");
  CHECK(d.at("serve") == v1::STAGE_STATE_BACKOFF);
}
