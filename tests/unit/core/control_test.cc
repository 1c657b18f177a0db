#include "tests/unit/core/core_fixture.h"

using namespace bp;
using namespace bp::core;

TEST_CASE("core: stop cancels the running attempt, then destroys in reverse order") {
  Driver d;
  d.serve();
  d.stop();
  CHECK(d.state.n.state == v1::RUN_STATE_STOPPING);
  CHECK(d.at("serve") == v1::STAGE_STATE_CANCELLING);
  CHECK(d.action<CancelAttempt>());
  CHECK(d.actions<DispatchAttempt>().empty());  // nothing is destroyed under a living attempt
  d.cancelled("serve");
  CHECK(d.action<DispatchAttempt>()->ref.stage == "link");
  d.run_stage("link");
  d.run_stage("make");
  CHECK(d.state.n.state == v1::RUN_STATE_STOPPED);
  CHECK(is_ended(d.state.n.state));
  CHECK(d.state.timers.empty());
  CHECK(d.last.ended);
  CHECK(d.stage("link").handle().empty());
  CHECK(why(d.state) == "nobody: ended by me");
}

TEST_CASE("core: cancel reaches a stage in any state") {
  Driver d;
  d.submit();
  SECTION("queued") { d.cancel(); }
  SECTION("dispatched, host not started: killed as soon as it is there") {
    d.dispatched("check");
    d.cancel();
    CHECK(d.at("check") == v1::STAGE_STATE_CANCELLING);
    d.host_started("check");
    CHECK(d.action<KillHost>());
    CHECK(!d.action<SendAttempt>());
    d.lost("check");
  }
  SECTION("running") {
    d.start("check");
    d.cancel();
    d.cancelled("check");
  }
  SECTION("waiting for its retry") {
    d.start("check");
    d.fail("check");
    d.cancel();
  }
  CHECK(d.state.n.state == v1::RUN_STATE_CANCELLED);
  CHECK(is_ended(d.state.n.state));
}

TEST_CASE("core: stop during a retry's cancel goes on to teardown when the attempt is dead") {
  v1::WorkflowDefinition w = line_workflow();
  w.mutable_stages(1)->set_run_timeout_ms(1000);
  Driver d;
  d.submit(w);
  d.run_stage("check");
  d.start("make");
  d.fire("make", v1::TIMER_KIND_RUN);
  d.stop();
  d.lost("make");
  CHECK(d.at("make") == v1::STAGE_STATE_QUEUED);
  CHECK(d.stage("make").mode == v1::ATTEMPT_MODE_DESTROY);
  d.run_stage("make");
  CHECK(d.state.n.state == v1::RUN_STATE_STOPPED);
}

TEST_CASE("core: stop and cancel of what has ended or is ending change nothing") {
  Driver d;
  d.serve();
  d.stop();
  CHECK(!d.stop().changed);
  CHECK(!d.cancel().changed);
  CHECK(d.last.accepted.ok());
}

TEST_CASE("core: destroy attempts have retries of their own") {
  Driver d;
  d.serve();
  d.stop();
  d.cancelled("serve");
  d.start("link");
  d.fail("link");
  CHECK(d.at("link") == v1::STAGE_STATE_BACKOFF);
  d.fire("link", v1::TIMER_KIND_RETRY);
  d.start("link");
  d.lost("link");
  d.fire("link", v1::TIMER_KIND_RETRY);
  d.run_stage("link");
  d.run_stage("make");
  CHECK(d.state.n.state == v1::RUN_STATE_STOPPED);
}

TEST_CASE("core: what cannot be confirmed gone needs a human; stop then tries again") {
  Driver d;
  d.serve();
  d.cancel();
  d.cancelled("serve");
  d.start("link");
  d.needs_human("link", {"pid 77 on n1-0"});
  CHECK(d.state.n.state == v1::RUN_STATE_STOPPING);  // the rest is still torn down
  d.run_stage("make");
  CHECK(d.state.n.state == v1::RUN_STATE_NEEDS_HUMAN);
  CHECK(!is_ended(d.state.n.state));
  REQUIRE(d.state.rarely().survivors.size() == 1);
  CHECK(d.state.rarely().survivors[0] == "pid 77 on n1-0");
  CHECK(why(d.state).find("pid 77") != std::string::npos);
  CHECK(d.retry().accepted.error().code == ErrorCode::kConflict);
  d.stop();
  CHECK(d.state.n.state == v1::RUN_STATE_STOPPING);
  CHECK(d.action<DispatchAttempt>()->ref.stage == "link");
  d.run_stage("link");
  CHECK(d.state.n.state == v1::RUN_STATE_CANCELLED);
  CHECK(d.state.rarely().survivors.empty());
}

TEST_CASE("core: a destroy that fails for good names what it could not remove") {
  Driver d;
  d.serve();
  d.stop();
  d.cancelled("serve");
  d.start("link");
  d.fail("link", "BP_PERMISSION", false);
  d.run_stage("make");
  CHECK(d.state.n.state == v1::RUN_STATE_NEEDS_HUMAN);
  CHECK(d.state.rarely().survivors[0].find("run-1/link/0/1") != std::string::npos);
}

TEST_CASE("core: a retry of a failed run is a new generation with new effect keys") {
  Driver d;
  d.serve();
  CHECK(d.retry().accepted.error().code == ErrorCode::kConflict);
  const v1::Epoch before = d.epoch("serve");
  d.fail("serve", "BP_INVALID_RECIPE", false);
  d.run_stage("link");
  d.run_stage("make");
  REQUIRE(d.state.n.state == v1::RUN_STATE_FAILED);
  CHECK(!d.last.drop_secrets);  // the retry needs them
  d.retry();
  CHECK(!is_ended(d.state.n.state));
  CHECK(d.state.n.state == v1::RUN_STATE_QUEUED);
  CHECK(d.at("check") == v1::STAGE_STATE_QUEUED);
  CHECK(effect_key(d.state, d.key("check")) == "run-1/check/0/2");
  CHECK(d.epoch("check").counter() > before.counter());
  CHECK(d.stage("make").handle().empty());
  CHECK(d.stage("check").attempt == 1);
  CHECK(d.stage("check").attempts_total == 2);
  d.run_stage("check");
  d.run_stage("make", "m2");
  d.run_stage("link", "l2");
  d.start("serve");
  d.ready("serve");
  CHECK(d.state.n.state == v1::RUN_STATE_SERVING);
}

TEST_CASE("core: who ends a run deletes its secrets, and it is not retried") {
  Driver d;
  d.submit();
  SECTION("stopped") { d.stop(); }
  SECTION("cancelled") { d.cancel(); }
  SECTION("failed before") {
    d.start("check");
    d.fail("check", "BP_INVALID_RECIPE", false);
    REQUIRE(d.state.n.state == v1::RUN_STATE_FAILED);
    d.cancel();
    CHECK(d.state.n.state == v1::RUN_STATE_FAILED);
    d.stop();
    CHECK(d.state.n.state == v1::RUN_STATE_STOPPED);
  }
  REQUIRE(is_ended(d.state.n.state));
  REQUIRE(d.last.drop_secrets);
  CHECK(d.retry().accepted.error().code == ErrorCode::kConflict);
  CHECK(is_ended(d.state.n.state));
}

TEST_CASE("core: stop of a finished run removes what it left") {
  v1::WorkflowDefinition w;
  *w.add_stages() = stage_def("only");
  w.mutable_stages(0)->set_has_destroy(true);
  Driver d;
  d.submit(w);
  d.run_stage("only", "thing");
  CHECK(d.state.n.state == v1::RUN_STATE_SUCCEEDED);
  d.stop();
  d.run_stage("only");
  CHECK(d.state.n.state == v1::RUN_STATE_STOPPED);
}

TEST_CASE("core: a restart of the daemon emits every open action again") {
  Driver d;
  d.submit();
  SECTION("queued") {
    d.daemon_started(1, "boot-a");
    CHECK(d.action<DispatchAttempt>()->ref.epoch.counter() == 1);
  }
  SECTION("running") {
    d.start("check");
    d.daemon_started(1, "boot-a");
    CHECK(d.action<ReattachAttempt>()->ref.host.pid() == 1001);
    d.succeed("check");  // it had gone on meanwhile
    CHECK(d.at("make") == v1::STAGE_STATE_QUEUED);
  }
  SECTION("being cancelled") {
    d.start("check");
    d.cancel();
    d.now += 1000;
    d.daemon_started(1, "boot-a");
    CHECK(d.action<ReattachAttempt>());
    CHECK(d.action<CancelAttempt>()->grace_ms == kCancelGraceMs - 1000);
  }
}

TEST_CASE("core: timers go on within a boot, and from what was left in another boot") {
  Driver d;
  d.submit();
  d.start("check");
  d.fail("check");
  const int64_t due = d.timer("check", v1::TIMER_KIND_RETRY)->due_boot_ms;
  SECTION("same boot") {
    d.now += 40;
    d.daemon_started(1, "boot-a");
    CHECK(d.timer("check", v1::TIMER_KIND_RETRY)->due_boot_ms == due);
  }
  SECTION("same boot, overdue") {
    d.now += 4000;
    CHECK(!d.daemon_started(1, "boot-a").changed);
    CHECK(d.timer("check", v1::TIMER_KIND_RETRY)->due_boot_ms == due);
  }
  SECTION("another boot") {
    d.now = 5;
    d.daemon_started(1, "boot-b");
    CHECK(d.timer("check", v1::TIMER_KIND_RETRY)->due_boot_ms == 5 + 100);
    CHECK(d.state.n.boot == boot_hash("boot-b"));
  }
  REQUIRE(d.last.put_timers.size() == 1);
  d.fire("check", v1::TIMER_KIND_RETRY);
  CHECK(d.at("check") == v1::STAGE_STATE_QUEUED);
}

TEST_CASE("core: after a restore of the journal new epochs belong to the new incarnation") {
  Driver d;
  d.submit();
  d.start("check");
  d.daemon_started(2, "boot-a");
  CHECK(d.epoch("check").incarnation() == 1);
  d.lost("check");
  d.fire("check", v1::TIMER_KIND_RETRY);
  CHECK(d.epoch("check").incarnation() == 2);
}
