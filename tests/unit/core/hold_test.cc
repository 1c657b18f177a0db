// Holding runs, changing them while they live, and what survives a fault.
#include "tests/unit/core/core_fixture.h"

using namespace bp;
using namespace bp::core;

namespace {

v1::WorkflowDefinition timed() {
  v1::WorkflowDefinition w = workflow_of({stage_def("a"), stage_def("b", {"a"})});
  w.mutable_stages(0)->set_run_timeout_ms(5'000);
  w.mutable_stages(0)->set_total_timeout_ms(50'000);
  w.set_run_total_timeout_ms(500'000);
  return w;
}

v1::Event quarantined() {
  v1::Event e;
  e.mutable_run_quarantined()->set_reason("check failed");
  return e;
}

v1::Event released(bool cancel) {
  v1::Event e;
  e.mutable_run_released()->set_by("me");
  e.mutable_run_released()->set_cancel(cancel);
  e.mutable_run_released()->set_incarnation(1);
  e.mutable_run_released()->set_boot_id("boot-a");
  return e;
}

Outcome& migrate(Driver& d, const v1::WorkflowDefinition& w) {
  auto made = d.workflows.add(w);
  REQUIRE(made.ok());
  v1::Event e;
  e.mutable_run_migrated()->set_workflow_hash((*made)->hash());
  return d.feed(e);
}

}  // namespace

TEST_CASE("core: a paused run dispatches nothing; its running attempt finishes") {
  Driver d;
  d.submit(timed());
  d.start("a");
  d.pause();
  CHECK(d.state.n.state == v1::RUN_STATE_PAUSED);
  CHECK(next_of(d.state).actor == storage::Actor::kPerson);
  CHECK(why(d.state).find("paused by me") != std::string::npos);
  CHECK(d.last.drop_timers.size() == 3);
  CHECK(!d.pause().changed);
  d.succeed("a");
  CHECK(d.at("a") == v1::STAGE_STATE_SUCCEEDED);
  CHECK(d.at("b") == v1::STAGE_STATE_PENDING);
  CHECK(d.actions<DispatchAttempt>().empty());
  d.resume();
  CHECK(d.state.n.state == v1::RUN_STATE_RUNNING);
  CHECK(d.action<DispatchAttempt>()->ref.stage == "b");
  CHECK(!d.resume().changed);
}

TEST_CASE("core: while a run is paused its times stand still") {
  Driver d;
  d.submit(timed());
  d.start("a");
  d.now += 1'000;
  const uint64_t epoch = d.epoch("a").counter();
  d.pause();
  d.now += 1'000'000;
  CHECK(!d.feed(Driver::fired("a", v1::TIMER_KIND_RUN, epoch)).changed);
  d.resume();
  CHECK(d.timer("a", v1::TIMER_KIND_RUN)->due_boot_ms == d.now + 4'000);
  CHECK(d.timer("a", v1::TIMER_KIND_TOTAL)->due_boot_ms == d.now + 49'000);
  CHECK(d.timer("", v1::TIMER_KIND_RUN_TOTAL)->due_boot_ms == d.now + 499'000);
  CHECK(d.last.put_timers.size() == 3);
}

TEST_CASE("core: an attempt that was queued when the run was paused is dispatched after it") {
  Driver d;
  d.submit(timed());
  d.pause();
  CHECK(!d.dispatched("a").changed);
  CHECK(d.at("a") == v1::STAGE_STATE_QUEUED);
  d.daemon_started(1, "boot-b");
  CHECK(d.actions<DispatchAttempt>().empty());
  d.resume();
  CHECK(d.action<DispatchAttempt>()->ref.stage == "a");
  d.start("a");
  CHECK(d.at("a") == v1::STAGE_STATE_RUNNING);
}

TEST_CASE("core: a paused run can be cancelled; one that fails waits with its teardown") {
  v1::WorkflowDefinition w = timed();
  w.mutable_stages(0)->set_has_destroy(true);
  Driver d;
  d.submit(w);
  d.start("a");
  d.pause();
  SECTION("cancelled") {
    d.cancel();
    CHECK(d.state.n.state == v1::RUN_STATE_STOPPING);
    d.cancelled("a");
  }
  SECTION("failed") {
    d.fail("a", "BP_INTERNAL", false);
    CHECK(d.state.n.state == v1::RUN_STATE_PAUSED);
    CHECK(d.actions<DispatchAttempt>().empty());
    SECTION("then resumed") { d.resume(); }
    SECTION("then stopped") { d.stop(); }
  }
  CHECK(d.action<DispatchAttempt>()->mode == v1::ATTEMPT_MODE_DESTROY);
  d.run_stage("a");
  CHECK(is_ended(d.state.n.state));
  CHECK(d.pause().accepted.error().code == ErrorCode::kConflict);
}

TEST_CASE("core: in quarantine nothing happens until a person releases the run") {
  Driver d;
  d.submit(timed());
  d.start("a");
  d.feed(quarantined());
  CHECK(d.state.n.state == v1::RUN_STATE_QUARANTINED);
  CHECK(next_of(d.state).actor == storage::Actor::kPerson);
  CHECK(why(d.state).find("check failed") != std::string::npos);
  CHECK(d.last.drop_timers.size() == 3);
  CHECK(!d.feed(quarantined()).changed);
  CHECK(d.succeed("a").accepted.error().code == ErrorCode::kConflict);
  CHECK(d.last.actions.empty());  // no ack: the host keeps its result
  CHECK(d.cancel().accepted.error().code == ErrorCode::kConflict);
  d.daemon_started(1, "boot-a");
  CHECK(d.last.actions.empty());
  SECTION("to go on") {
    d.feed(released(false));
    CHECK(d.action<ReattachAttempt>()->ref.stage == "a");
    CHECK(d.last.put_timers.size() == 3);
    d.succeed("a");
    CHECK(d.at("b") == v1::STAGE_STATE_QUEUED);
  }
  SECTION("to end") {
    d.feed(released(true));
    CHECK(d.at("a") == v1::STAGE_STATE_CANCELLING);
    d.cancelled("a");
    CHECK(d.state.n.state == v1::RUN_STATE_CANCELLED);
  }
}

TEST_CASE("core: a fault leaves the run as it was") {
  v1::WorkflowDefinition w = timed();
  *w.mutable_stages(1) = signal_def("b", "go", {"a"});
  Driver d;
  d.submit(w);
  d.start("a");
  v1::Event e;
  SECTION("at the result of an attempt: its state, timers, handle and outputs") {
    e = d.ended_event("a");
    e.mutable_ended()->set_succeeded(true);
    e.mutable_ended()->set_handle("thing");
    (*e.mutable_ended()->mutable_outputs())["out"] = "o";
  }
  SECTION("at a resume: the pause, who paused it, frozen timers") {
    d.pause();
    d.succeed("a");
    e.mutable_resume_requested()->set_by("me");
  }
  d.state.stages.back().key.map_index = 1;  // no event leads here: scheduling b trips a check
  const std::string before = encode_run(d.state);
  e.set_core_version(kCoreVersion);
  e.set_boot_ms(d.now);
  CHECK_THROWS_AS(apply(d.state, e, d.workflows), Fault);
  CHECK(encode_run(d.state) == before);
}

TEST_CASE("core: priority and labels change while a run lives") {
  Driver d;
  d.submit();
  v1::Event e;
  e.mutable_run_changed()->set_priority(5);
  (*e.mutable_run_changed()->mutable_put_labels())["team"] = "search";
  CHECK(d.feed(e).changed);
  CHECK(!d.feed(e).changed);
  CHECK(d.state.n.priority == 5);
  CHECK(ended_row(d.state).labels.at("team") == "search");
  e.Clear();
  e.mutable_run_changed()->add_drop_labels("team");
  CHECK(d.feed(e).changed);
  CHECK(d.state.labels.empty());
  (*e.mutable_run_changed()->mutable_put_labels())[""] = "x";
  CHECK(d.feed(e).accepted.error().code == ErrorCode::kInvalidArgument);
}

TEST_CASE("core: a run goes on under another definition where what has run looks the same") {
  v1::WorkflowDefinition w = workflow_of({stage_def("a"), stage_def("b", {"a"})});
  Driver d;
  d.submit(w);
  d.run_stage("a");
  w.set_version(2);
  SECTION("a new stage after what has run, a queued one with another plugin") {
    *w.add_stages() = stage_def("c", {"a"});
    w.mutable_stages()->SwapElements(0, 2);
    w.mutable_stages(1)->set_plugin("b2");
    const v1::Epoch old = d.epoch("b");
    CHECK(migrate(d, w).changed);
    CHECK(d.at("a") == v1::STAGE_STATE_SUCCEEDED);
    CHECK(d.actions<DispatchAttempt>().size() == 2);
    CHECK(d.epoch("b").counter() > old.counter());
    d.start("b");
    d.run_stage("c");
    d.succeed("b");
    CHECK(d.state.n.state == v1::RUN_STATE_SUCCEEDED);
  }
  SECTION("a running stage keeps its attempt and its timers") {
    d.start("b");
    w.mutable_stages(1)->set_run_timeout_ms(100);
    CHECK(migrate(d, w).changed);
    d.succeed("b");
    CHECK(d.state.n.state == v1::RUN_STATE_SUCCEEDED);
  }
  SECTION("what has run is gone") {
    w = workflow_of({stage_def("b")});
    CHECK(migrate(d, w).accepted.error().message.find("stage a has run") != std::string::npos);
  }
  SECTION("what has run waits for something else") {
    *w.add_stages() = stage_def("z");
    w.mutable_stages(0)->add_after("z");
    CHECK(migrate(d, w).accepted.error().code == ErrorCode::kConflict);
  }
  SECTION("what runs would be isolated in another way") {
    d.start("b");
    w.mutable_stages(1)->set_isolation(v1::ISOLATION_SHARED);
    CHECK(migrate(d, w).accepted.error().code == ErrorCode::kConflict);
  }
  SECTION("nobody knows the definition") {
    v1::Event e;
    e.mutable_run_migrated()->set_workflow_hash("00");
    CHECK(d.feed(e).accepted.error().code == ErrorCode::kNotFound);
  }
}

TEST_CASE("core: migration onto other plugin versions alone") {
  Driver d;
  d.submit(workflow_of({shared_def("a"), shared_def("b", {"a"})}));
  v1::Event e;
  (*e.mutable_run_migrated()->mutable_plugin_versions())["b_plugin"] = 9;
  CHECK(d.feed(e).changed);
  d.succeed("a");
  CHECK(d.action<SendShared>()->plugin_version == 9);
}

TEST_CASE("core: a retry from the failed stage keeps what has succeeded and was not torn down") {
  v1::WorkflowDefinition w = workflow_of({stage_def("fetch"), stage_def("make", {"fetch"}),
                                          stage_def("use", {"make"})});
  w.mutable_stages(1)->set_has_destroy(true);
  Driver d;
  d.submit(w);
  d.run_stage("fetch");
  d.run_stage("make", "thing");
  d.start("use");
  d.fail("use", "BP_INTERNAL", false);
  d.run_stage("make");
  REQUIRE(d.state.n.state == v1::RUN_STATE_FAILED);
  v1::Event e;
  e.mutable_retry_requested()->set_from_failed(true);
  CHECK(d.feed(e).revived);
  CHECK(d.at("fetch") == v1::STAGE_STATE_SUCCEEDED);
  CHECK(effect_key(d.state, d.key("fetch")) == "run-1/fetch/0/1");
  CHECK(d.at("make") == v1::STAGE_STATE_QUEUED);  // it was destroyed
  CHECK(effect_key(d.state, d.key("make")) == "run-1/make/0/2");
  CHECK(run_attempt_message(d.state, d.key("make")).inputs().at("fetch.out") == "fetch-output");
  d.run_stage("make");
  d.run_stage("use");
  CHECK(d.state.n.state == v1::RUN_STATE_SUCCEEDED);
}

TEST_CASE("core: a run that still has what it made is not retried into forgetting it") {
  v1::WorkflowDefinition w = workflow_of({stage_def("make")});
  w.mutable_stages(0)->set_has_destroy(true);
  Driver d;
  d.submit(w);
  d.run_stage("make", "thing");
  REQUIRE(d.state.n.state == v1::RUN_STATE_SUCCEEDED);
  CHECK(d.retry().accepted.error().code == ErrorCode::kConflict);
  CHECK(d.stage("make").handle() == "thing");
}
