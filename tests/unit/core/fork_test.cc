// Forks, and handles that are lent to them.
#include "tests/unit/core/core_fixture.h"

using namespace bp;
using namespace bp::core;

namespace {

// plan -> nodes -> use: nodes makes something that may be lent, unless `owned`.
v1::WorkflowDefinition workflow(bool owned) {
  v1::WorkflowDefinition w = workflow_of(
      {stage_def("plan"), stage_def("nodes", {"plan"}), stage_def("use", {"nodes"})});
  w.mutable_stages(1)->set_has_destroy(true);
  w.mutable_stages(1)->set_owns_handle(owned);
  return w;
}

void run_to_use(Driver& d, bool owned) {
  d.submit(workflow(owned));
  d.run_stage("plan");
  d.run_stage("nodes", "pool-7");
  d.start("use");
}

v1::ForkOrigin origin_of(const Driver& d, const std::string& from) {
  auto origin = fork_origin(d.state, from, *d.state.workflow);
  REQUIRE(origin.ok());
  return std::move(origin).value();
}

Outcome& submit_fork(Driver& d, const v1::ForkOrigin& origin, bool owned) {
  v1::Event e = Feeder::submitted(workflow(owned));
  e.mutable_submitted()->set_run_id("run-2");
  *e.mutable_submitted()->mutable_fork() = origin;
  return d.feed(e);
}

v1::Event lent(const std::string& borrower) {
  v1::Event e;
  e.mutable_handle_lent()->set_stage("nodes");
  e.mutable_handle_lent()->set_borrower(borrower);
  return e;
}

v1::Event returned(const std::string& borrower) {
  v1::Event e;
  e.mutable_handle_returned()->set_stage("nodes");
  e.mutable_handle_returned()->set_borrower(borrower);
  return e;
}

}  // namespace

TEST_CASE("core: a fork starts where it is told and borrows what stages before it made") {
  Driver lender, fork;
  run_to_use(lender, false);
  const v1::ForkOrigin origin = origin_of(lender, "use");
  REQUIRE(origin.taken_size() == 2);
  CHECK(lender.feed(lent("run-2")).changed);
  CHECK(!lender.feed(lent("run-2")).changed);
  submit_fork(fork, origin, false);
  REQUIRE(fork.last.accepted.ok());
  CHECK(fork.at("plan") == v1::STAGE_STATE_SUCCEEDED);
  CHECK(fork.at("use") == v1::STAGE_STATE_QUEUED);
  CHECK(run_attempt_message(fork.state, fork.key("use")).inputs().at("nodes.out") ==
        "nodes-output");
  CHECK(fork.stage("nodes").handle() == "pool-7");
  SECTION("it ends: the handle goes back, nothing is destroyed") {
    fork.cancel();
    CHECK(fork.state.n.state == v1::RUN_STATE_CANCELLED);
    REQUIRE(fork.action<ReturnHandle>());
    CHECK(fork.action<ReturnHandle>()->lender == "run-1");
    CHECK(fork.action<ReturnHandle>()->stage == "nodes");
  }
  SECTION("it succeeds") {
    fork.run_stage("use");
    CHECK(fork.state.n.state == v1::RUN_STATE_SUCCEEDED);
    CHECK(fork.action<ReturnHandle>());
  }
  SECTION("it goes back: from then on it makes its own") {
    fork.start("use");
    fork.go_back("use", "nodes");
    CHECK(!fork.action<ReturnHandle>());
    fork.fire("nodes", v1::TIMER_KIND_RETRY);
    CHECK(fork.action<ReturnHandle>());
    CHECK(run_attempt_message(fork.state, fork.key("nodes")).handle().empty());
    fork.run_stage("nodes", "pool-8");
    fork.cancel();
    CHECK(fork.action<DispatchAttempt>()->ref.stage == "nodes");  // its own to destroy
  }
}

TEST_CASE("core: the lender's teardown waits until the last borrower is gone") {
  Driver d;
  run_to_use(d, false);
  d.feed(lent("run-2"));
  d.feed(lent("run-3"));
  d.cancel();
  CHECK(d.actions<CheckBorrower>().size() == 2);
  d.cancelled("use");
  CHECK(d.state.n.state == v1::RUN_STATE_STOPPING);
  CHECK(d.actions<DispatchAttempt>().empty());
  CHECK(next_of(d.state).actor == storage::Actor::kPerson);
  CHECK(why(d.state).find("run-2") != std::string::npos);
  d.daemon_started(1, "boot-a");
  CHECK(d.actions<CheckBorrower>().size() == 2);
  d.feed(returned("run-2"));
  CHECK(!d.feed(returned("run-2")).changed);
  CHECK(d.actions<DispatchAttempt>().empty());
  d.feed(returned("run-3"));
  CHECK(d.action<DispatchAttempt>()->ref.stage == "nodes");
  CHECK(d.feed(lent("run-4")).accepted.error().code == ErrorCode::kConflict);
  d.run_stage("nodes");
  CHECK(d.state.n.state == v1::RUN_STATE_CANCELLED);
}

TEST_CASE("core: a handle that is owned is never inherited: its stage runs again") {
  Driver d, fork;
  run_to_use(d, true);
  const v1::ForkOrigin origin = origin_of(d, "use");
  REQUIRE(origin.taken_size() == 1);
  CHECK(origin.taken(0).stage() == "plan");
  CHECK(d.feed(lent("run-2")).accepted.error().code == ErrorCode::kConflict);
  submit_fork(fork, origin, true);
  CHECK(fork.at("nodes") == v1::STAGE_STATE_QUEUED);
}

TEST_CASE("core: a fork that takes what it must not is refused") {
  Driver d, fork;
  run_to_use(d, false);
  v1::ForkOrigin origin = origin_of(d, "use");
  bool owned = false;
  SECTION("an owned handle") { owned = true; }
  SECTION("not what comes before it") { origin.mutable_taken()->DeleteSubrange(0, 1); }
  SECTION("a handle of nobody") { origin.mutable_taken(1)->clear_lender(); }
  SECTION("an unknown stage") { origin.mutable_taken(0)->set_stage("other"); }
  SECTION("twice the same") { *origin.add_taken() = origin.taken(0); }
  CHECK(submit_fork(fork, origin, owned).accepted.error().code == ErrorCode::kInvalidArgument);
  CHECK(fork.state.run_id.empty());
}

TEST_CASE("core: a fork takes the instances of a map, and a retry of a fork makes its own") {
  v1::WorkflowDefinition w = workflow_of({stage_def("each"), stage_def("use", {"each"})});
  w.mutable_stages(0)->mutable_map_over()->set_run_input("list");
  v1::ValueList list;
  list.add_values("x");
  list.add_values("y");
  Driver d, fork;
  v1::Event e = Feeder::submitted(w);
  (*e.mutable_submitted()->mutable_inputs())["list"] = list.SerializeAsString();
  d.feed(e);
  d.run_stage("each", "h0", 0);
  d.run_stage("each", "h1", 1);
  const v1::ForkOrigin origin = origin_of(d, "use");
  REQUIRE(origin.taken_size() == 2);
  *e.mutable_submitted()->mutable_fork() = origin;
  e.mutable_submitted()->set_run_id("run-2");
  fork.feed(e);
  REQUIRE(fork.last.accepted.ok());
  CHECK(fork.at("use") == v1::STAGE_STATE_QUEUED);
  fork.start("use");
  fork.fail("use", "BP_INTERNAL", false);
  REQUIRE(fork.state.n.state == v1::RUN_STATE_FAILED);
  CHECK(fork.actions<ReturnHandle>().size() == 2);
  v1::Event retry;
  retry.mutable_retry_requested()->set_from_failed(true);
  fork.feed(retry);
  CHECK(fork.at("use") == v1::STAGE_STATE_PENDING);
  CHECK(fork.at("each", 0) == v1::STAGE_STATE_QUEUED);
}
