#include "tests/unit/core/core_fixture.h"

using namespace bp;
using namespace bp::core;

TEST_CASE("core: a submitted run queues its first stage only") {
  Driver d;
  d.submit();
  CHECK(d.last.accepted.ok());
  CHECK(d.state.n.state == v1::RUN_STATE_QUEUED);
  CHECK(d.at("check") == v1::STAGE_STATE_QUEUED);
  CHECK(d.at("make") == v1::STAGE_STATE_PENDING);
  auto dispatch = d.actions<DispatchAttempt>();
  REQUIRE(dispatch.size() == 1);
  CHECK(dispatch[0].ref.stage == "check");
  CHECK(dispatch[0].ref.attempt == 1);
  CHECK(dispatch[0].ref.epoch.counter() == 1);
  CHECK(dispatch[0].ref.epoch.incarnation() == 1);
  CHECK(dispatch[0].mode == v1::ATTEMPT_MODE_APPLY);
  CHECK(dispatch[0].plugin == "check_plugin");
  CHECK(d.last.record.has_submitted());
  CHECK(d.state.n.run_seq == 1);
  CHECK(d.state.stages.size() == 4);
}

TEST_CASE("core: a dispatched attempt is started, told, and its success starts the next stage") {
  Driver d;
  d.submit();
  d.dispatched("check");
  CHECK(d.state.n.state == v1::RUN_STATE_RUNNING);
  REQUIRE(d.action<StartHost>());
  CHECK(d.action<StartHost>()->ref.host_id == "host-1");
  d.host_started("check");
  REQUIRE(d.action<SendAttempt>());
  CHECK(d.action<SendAttempt>()->ref.host.pid() == 1001);
  d.succeed("check", "h", "plan");
  CHECK(d.action<AckResult>());
  CHECK(d.at("check") == v1::STAGE_STATE_SUCCEEDED);
  REQUIRE(d.action<DispatchAttempt>());
  CHECK(d.action<DispatchAttempt>()->ref.stage == "make");
  CHECK(d.action<DispatchAttempt>()->ref.epoch.counter() == 2);
  v1::RunAttempt m = run_attempt_message(d.state, d.key("make"));
  CHECK(m.inputs().at("recipe") == "R");
  CHECK(m.inputs().at("check.out") == "plan");
  CHECK(m.effect_key() == "run-1/make/0/1");
  CHECK(m.deployment_name() == "demo");
}

TEST_CASE("core: the run serves when its last stage is ready") {
  Driver d;
  d.serve();
  CHECK(d.at("serve") == v1::STAGE_STATE_READY);
  CHECK(!is_ended(d.state.n.state));
  CHECK(d.state.n.first_serving_wall_ms == d.now + 7);
  CHECK(d.state.timers.empty());
  CHECK(why(d.state) == "applications: the endpoint serves");
  CHECK(next_of(d.state).actor == storage::Actor::kApplications);
}

TEST_CASE("core: a workflow without a stage that keeps running ends in SUCCEEDED") {
  v1::WorkflowDefinition w;
  *w.add_stages() = stage_def("only");
  Driver d;
  d.submit(w);
  d.run_stage("only");
  CHECK(d.state.n.state == v1::RUN_STATE_SUCCEEDED);
  CHECK(is_ended(d.state.n.state));
  CHECK(d.last.ended);
}

TEST_CASE("core: branches run side by side and a join waits for all of them") {
  v1::WorkflowDefinition w;
  *w.add_stages() = stage_def("a");
  *w.add_stages() = stage_def("b");
  *w.add_stages() = stage_def("c", {"a", "b"});
  Driver d;
  d.submit(w);
  CHECK(d.actions<DispatchAttempt>().size() == 2);
  d.run_stage("a");
  CHECK(d.at("c") == v1::STAGE_STATE_PENDING);
  d.run_stage("b");
  CHECK(d.at("c") == v1::STAGE_STATE_QUEUED);
}

TEST_CASE("core: repeated events change nothing") {
  Driver d;
  d.submit();
  d.submit();
  CHECK(!d.last.changed);
  d.dispatched("check");
  v1::Epoch first = d.epoch("check");
  CHECK(!d.dispatched("check").changed);
  d.host_started("check");
  CHECK(!d.host_started("check").changed);
  d.succeed("check");
  v1::Event again = d.ended_event("check", first);
  again.mutable_ended()->set_succeeded(true);
  CHECK(!d.feed(again).changed);
  CHECK(d.action<AckResult>());  // so that its host may go
}

TEST_CASE("core: an event for no run is refused") {
  Driver d;
  CHECK(d.stop().accepted.error().code == ErrorCode::kNotFound);
}

TEST_CASE("core: checkpoints and handles are kept and handed to the next attempt") {
  Driver d;
  d.submit();
  d.start("check");
  v1::Event e;
  e.mutable_checkpointed()->set_stage("check");
  *e.mutable_checkpointed()->mutable_epoch() = d.epoch("check");
  e.mutable_checkpointed()->set_checkpoint("half");
  e.mutable_checkpointed()->set_handle("thing-1");
  CHECK(d.feed(e).changed);
  CHECK(!d.feed(e).changed);
  d.fail("check");
  d.fire("check", v1::TIMER_KIND_RETRY);
  v1::RunAttempt m = run_attempt_message(d.state, d.key("check"));
  CHECK(m.checkpoint() == "half");
  CHECK(m.handle() == "thing-1");
  CHECK(m.effect_key() == "run-1/check/0/1");
}

TEST_CASE("core: a workflow that cannot run is refused whole") {
  auto refused = [](v1::WorkflowDefinition w) {
    Driver d;
    d.submit(w);
    return !d.last.accepted.ok() && d.state.run_id.empty() && !d.last.changed;
  };
  v1::WorkflowDefinition w;
  CHECK(refused(w));
  *w.add_stages() = stage_def("a", {"b"});
  CHECK(refused(w));
  *w.add_stages() = stage_def("b", {"a"});
  CHECK(refused(w));
  w.mutable_stages(1)->clear_after();
  CHECK(!refused(w));
  *w.add_stages() = stage_def("b");
  CHECK(refused(w));
  w.mutable_stages(2)->set_name("../x");
  CHECK(refused(w));
  w.mutable_stages(2)->set_name("c");
  w.mutable_stages(2)->mutable_retry()->set_jitter(2);
  CHECK(refused(w));
}
