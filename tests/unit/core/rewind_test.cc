#include "tests/unit/core/core_fixture.h"

using namespace bp;
using namespace bp::core;

TEST_CASE(
    "core: a rewind runs the named stage and everything after it again, same keys, handles kept") {
  Driver d;
  d.serve();
  d.go_back("serve", "make");
  CHECK(d.state.n.state == v1::RUN_STATE_RUNNING);
  CHECK(d.at("check") == v1::STAGE_STATE_SUCCEEDED);
  CHECK(d.at("make") == v1::STAGE_STATE_BACKOFF);
  CHECK(d.at("link") == v1::STAGE_STATE_PENDING);
  CHECK(d.at("serve") == v1::STAGE_STATE_PENDING);
  CHECK(d.timer("make", v1::TIMER_KIND_RETRY)->left_ms == kRewindDelayMs);
  d.fire("make", v1::TIMER_KIND_RETRY);
  v1::RunAttempt m = run_attempt_message(d.state, d.key("make"));
  CHECK(m.effect_key() == "run-1/make/0/1");
  CHECK(m.handle() == "nodes");
  CHECK(m.inputs().at("link.out") == "link-output");
  d.run_stage("make");
  CHECK(d.stage("make").handle() == "nodes");
  d.run_stage("link");
  d.start("serve");
  d.ready("serve");
  CHECK(d.state.n.state == v1::RUN_STATE_SERVING);
  CHECK(d.stage("serve").failures == 0);
  CHECK(d.state.n.rewinds_total == 1);
}

TEST_CASE(
    "core: running successors are cancelled to proof of death before the rewound stage runs") {
  v1::WorkflowDefinition w;
  *w.add_stages() = stage_def("base");
  *w.add_stages() = stage_def("left", {"base"});
  *w.add_stages() = stage_def("right", {"base"});
  Driver d;
  d.submit(w);
  d.run_stage("base");
  d.start("left");
  d.start("right");
  d.go_back("left", "base");
  CHECK(d.at("right") == v1::STAGE_STATE_CANCELLING);
  REQUIRE(d.action<CancelAttempt>());
  d.fire("base", v1::TIMER_KIND_RETRY);
  CHECK(d.at("base") == v1::STAGE_STATE_PENDING);  // not while right may live
  CHECK(d.actions<DispatchAttempt>().empty());
  d.cancelled("right");
  CHECK(d.at("right") == v1::STAGE_STATE_PENDING);
  REQUIRE(d.actions<DispatchAttempt>().size() == 1);
  CHECK(d.action<DispatchAttempt>()->ref.stage == "base");
  d.run_stage("base");
  CHECK(d.at("left") == v1::STAGE_STATE_QUEUED);
  CHECK(d.at("right") == v1::STAGE_STATE_QUEUED);
}

TEST_CASE("core: rewinds in a row wait longer and fail for good at last, each using up no retry") {
  Driver d;
  d.submit();
  d.run_stage("check");
  d.run_stage("make", "nodes");
  int64_t longest = 0;
  for (uint32_t i = 1; i <= kRewindsMax; ++i) {
    d.start("link");
    d.go_back("link", "make");
    REQUIRE(d.state.n.state == v1::RUN_STATE_RUNNING);
    longest = d.timer("make", v1::TIMER_KIND_RETRY)->left_ms;
    if (i == 3) CHECK(longest == 4 * kRewindDelayMs);
    d.fire("make", v1::TIMER_KIND_RETRY);
    d.run_stage("make");
  }
  CHECK(longest == kRewindDelayMaxMs);
  d.start("link");
  d.go_back("link", "make");
  CHECK(d.state.n.state == v1::RUN_STATE_STOPPING);
  CHECK(d.state.error()->code() == "BP_UNAVAILABLE");
  CHECK(d.state.error()->message().find("a rank is gone") != std::string::npos);
}

TEST_CASE("core: becoming ready forgives earlier rewinds") {
  Driver d;
  d.serve();
  for (int i = 0; i < 50; ++i) {
    d.go_back("serve", "link");
    CHECK(d.timer("link", v1::TIMER_KIND_RETRY)->left_ms == kRewindDelayMs);
    d.fire("link", v1::TIMER_KIND_RETRY);
    d.run_stage("link");
    d.start("serve");
    d.ready("serve");
  }
  CHECK(d.state.n.state == v1::RUN_STATE_SERVING);
}

TEST_CASE("core: a stage may go back to itself, but not to one that does not come before it") {
  Driver d;
  d.submit();
  d.run_stage("check");
  d.start("make");
  SECTION("itself") {
    d.go_back("make", "make");
    CHECK(d.at("make") == v1::STAGE_STATE_BACKOFF);
  }
  SECTION("a later one") {
    d.go_back("make", "serve");
    CHECK(d.state.error()->code() == "BP_INTERNAL");
  }
  SECTION("an unknown one") {
    d.go_back("make", "nowhere");
    CHECK(d.state.error()->code() == "BP_INTERNAL");
  }
}
