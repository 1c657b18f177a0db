// Workflows as data: shared stages, maps, bindings, compensation, and what is refused.
#include "tests/unit/core/core_fixture.h"

using namespace bp;
using namespace bp::core;

namespace {

std::string list_of(const std::vector<std::string>& values) {
  v1::ValueList list;
  for (const auto& v : values) list.add_values(v);
  return list.SerializeAsString();
}

std::vector<std::string> values_in(const std::string& bytes) {
  v1::ValueList list;
  REQUIRE(list.ParseFromString(bytes));
  return {list.values().begin(), list.values().end()};
}

v1::WorkflowDefinition mapped(uint32_t parallel = 0) {
  v1::WorkflowDefinition w =
      workflow_of({stage_def("list"), stage_def("each", {"list"}), stage_def("join", {"each"})});
  w.mutable_stages(1)->mutable_map_over()->set_output("list.out");
  w.mutable_stages(1)->set_map_parallel_max(parallel);
  (*w.mutable_stages(2)->mutable_inputs())["all"].set_output("each.out");
  return w;
}

void give_list(Driver& d, const std::vector<std::string>& values) {
  d.start("list");
  v1::Event e = d.ended_event("list");
  e.mutable_ended()->set_succeeded(true);
  (*e.mutable_ended()->mutable_outputs())["out"] = list_of(values);  // no bytes when empty
  d.feed(e);
}

v1::WorkflowDefinition shared_line() {
  return workflow_of({shared_def("a"), shared_def("b", {"a"}), shared_def("c", {"b"})});
}

std::string submit_with(Driver& d, const v1::WorkflowDefinition& w) {
  d.submit(w);
  return d.last.accepted.ok() ? "" : d.last.accepted.error().message;
}

}  // namespace

TEST_CASE("core: a shared stage starts in the event that makes it runnable") {
  Driver d;
  d.submit(shared_line());
  REQUIRE(d.actions<SendShared>().size() == 1);
  CHECK(d.action<SendShared>()->ref.stage == "a");
  CHECK(d.action<SendShared>()->plugin == "a_plugin");
  CHECK(d.at("a") == v1::STAGE_STATE_RUNNING);
  CHECK(next_of(d.state).actor == storage::Actor::kStageHost);
  for (const char* name : {"a", "b", "c"}) {
    CHECK(d.at(name) == v1::STAGE_STATE_RUNNING);
    d.succeed(name);
    CHECK(d.action<AckResult>()->ref.shared);
  }
  CHECK(d.state.n.state == v1::RUN_STATE_SUCCEEDED);
  CHECK(d.journal.size() == 4);  // one event per step
}

TEST_CASE("core: a shared stage asks first where slots are limited or the daemon says so") {
  v1::WorkflowDefinition w = shared_line();
  Driver d;
  SECTION("the daemon") { d.may_dispatch = false; }
  SECTION("limit keys") { w.mutable_stages(0)->add_limit_keys("gpu"); }
  d.submit(w);
  CHECK(d.at("a") == v1::STAGE_STATE_QUEUED);
  CHECK(d.action<DispatchAttempt>());
  CHECK(!d.action<SendShared>());
  d.dispatched("a");
  CHECK(d.action<SendShared>());
  CHECK(!d.action<StartHost>());
}

TEST_CASE("core: the attempts of a dead shared host run again alone, at once and free of charge") {
  Driver d;
  d.submit(shared_line());
  d.lost("a", true);
  CHECK(d.stage("a").failures == 0);
  CHECK(d.at("a") == v1::STAGE_STATE_QUEUED);
  CHECK(d.action<DispatchAttempt>()->ref.attempt == 2);
  d.dispatched("a");
  REQUIRE(d.action<StartHost>());
  CHECK(!d.action<StartHost>()->ref.shared);
  d.host_started("a");
  d.succeed("a");
  CHECK(d.at("b") == v1::STAGE_STATE_RUNNING);
  CHECK(d.action<SendShared>()->ref.stage == "b");
}

TEST_CASE("core: a mapped stage runs once per value, and what comes after gets the list in order") {
  Driver d;
  d.submit(mapped());
  give_list(d, {"x", "y", "z"});
  REQUIRE(d.state.stages.size() == 5);
  CHECK(d.actions<DispatchAttempt>().size() == 3);
  CHECK(run_attempt_message(d.state, d.key("each", 1)).inputs().at("item") == "y");
  CHECK(effect_key(d.state, d.key("each", 2)) == "run-1/each/2/1");
  for (uint32_t i : {2u, 0u, 1u}) {
    CHECK(d.at("join") == v1::STAGE_STATE_PENDING);
    d.start("each", i);
    d.succeed("each", {}, "out-" + std::to_string(i), i);
  }
  REQUIRE(d.at("join") == v1::STAGE_STATE_QUEUED);
  CHECK(values_in(run_attempt_message(d.state, d.key("join")).inputs().at("all")) ==
        std::vector<std::string>{"out-0", "out-1", "out-2"});
}

TEST_CASE("core: a map runs at most so many instances at a time") {
  Driver d;
  d.submit(mapped(2));
  give_list(d, {"a", "b", "c", "d"});
  CHECK(d.actions<DispatchAttempt>().size() == 2);
  CHECK(d.at("each", 2) == v1::STAGE_STATE_PENDING);
  d.start("each", 0);
  d.fail("each");  // a waiting retry holds its place
  CHECK(d.actions<DispatchAttempt>().empty());
  d.start("each", 1);
  d.succeed("each", {}, "o", 1);
  CHECK(d.at("each", 2) == v1::STAGE_STATE_QUEUED);
}

TEST_CASE("core: a map over an empty list is through at once and gives an empty list") {
  Driver d;
  d.submit(mapped());
  give_list(d, {});
  REQUIRE(d.at("join") == v1::STAGE_STATE_QUEUED);
  CHECK(values_in(run_attempt_message(d.state, d.key("join")).inputs().at("all")).empty());
  d.run_stage("join");
  CHECK(d.state.n.state == v1::RUN_STATE_SUCCEEDED);
}

TEST_CASE("core: what cannot be mapped over fails the run and says why") {
  Driver d;
  d.submit(mapped());
  d.start("list");
  SECTION("no list") { d.succeed("list", {}, "\xff\xff garbage"); }
  SECTION("no output") { d.succeed("list"); }
  CHECK(d.state.n.state == v1::RUN_STATE_FAILED);
  CHECK(d.state.error()->message().find("\"each\"") == std::string::npos);
  CHECK(d.state.error()->message().find("each") != std::string::npos);
}

TEST_CASE("core: after a rewind the list is read again; what it lost is kept for its teardown") {
  v1::WorkflowDefinition w = mapped();
  w.mutable_stages(1)->set_has_destroy(true);
  Driver d;
  d.submit(w);
  give_list(d, {"x", "y"});
  d.run_stage("each", "h0", 0);
  d.run_stage("each", "h1", 1);
  d.start("join");
  d.go_back("join", "list");
  d.fire("list", v1::TIMER_KIND_RETRY);
  give_list(d, {"z"});
  CHECK(d.stage("each", 1).surplus);
  CHECK(d.at("each", 0) == v1::STAGE_STATE_QUEUED);
  CHECK(run_attempt_message(d.state, d.key("each")).inputs().at("item") == "z");
  d.run_stage("each", "h0", 0);
  d.start("join");
  d.fail("join", "BP_INTERNAL", false);
  CHECK(d.at("each", 0) == v1::STAGE_STATE_QUEUED);
  CHECK(d.at("each", 1) == v1::STAGE_STATE_QUEUED);
  d.run_stage("each", {}, 0);
  CHECK(d.state.n.state == v1::RUN_STATE_STOPPING);
  d.run_stage("each", {}, 1);
  CHECK(d.state.n.state == v1::RUN_STATE_FAILED);
}

TEST_CASE("core: an instance of a map that goes back to its own stage goes alone") {
  Driver d;
  d.submit(mapped());
  give_list(d, {"x", "y"});
  d.run_stage("each", {}, 0);
  d.start("each", 1);
  v1::Event e = d.ended_event("each", {}, 1);
  e.mutable_ended()->set_rewind_to_stage("each");
  d.feed(e);
  CHECK(d.at("each", 0) == v1::STAGE_STATE_SUCCEEDED);
  CHECK(d.at("each", 1) == v1::STAGE_STATE_BACKOFF);
  d.feed(timer_event(d.state, *d.state.timer(d.key("each", 1), v1::TIMER_KIND_RETRY)));
  d.run_stage("each", {}, 1);
  CHECK(d.at("join") == v1::STAGE_STATE_QUEUED);
}

TEST_CASE("core: a stage with bindings gets what they name and nothing else") {
  v1::WorkflowDefinition w = workflow_of({stage_def("a"), stage_def("b", {"a"})});
  auto& in = *w.mutable_stages(1)->mutable_inputs();
  in["constant"].set_value("7");
  in["mine"].set_run_input("recipe");
  in["theirs"].set_output("a.out");
  in["told"].set_signal("hint");
  in["told"].set_optional(true);
  Driver d;
  d.submit(w);
  d.start("a");
  SECTION("all there") {
    d.signal("hint", "first");
    d.signal("hint", "second");
    d.succeed("a", {}, "A");
    v1::RunAttempt m = run_attempt_message(d.state, d.key("b"));
    CHECK(m.inputs().size() == 4);
    CHECK(m.inputs().at("constant") == "7");
    CHECK(m.inputs().at("mine") == "R");
    CHECK(m.inputs().at("theirs") == "A");
    CHECK(m.inputs().at("told") == "second");
  }
  SECTION("an optional one is missing") {
    d.succeed("a", {}, "A");
    CHECK(run_attempt_message(d.state, d.key("b")).inputs().size() == 3);
  }
  SECTION("a needed one is missing") {
    d.succeed("a");
    CHECK(d.state.n.state == v1::RUN_STATE_FAILED);
    CHECK(d.state.error()->message().find("\"theirs\"") != std::string::npos);
  }
}

TEST_CASE("core: an output beside the log is named by its hash") {
  v1::WorkflowDefinition w = workflow_of({stage_def("a"), stage_def("b", {"a"})});
  Driver d;
  d.submit(w);
  d.start("a");
  v1::Event e = d.ended_event("a");
  e.mutable_ended()->set_succeeded(true);
  (*e.mutable_ended()->mutable_payloads())["big"] = "abcd";
  d.feed(e);
  std::vector<PayloadRef> refs;
  v1::RunAttempt m = run_attempt_message(d.state, d.key("b"), &refs);
  CHECK(m.inputs().count("a.big") == 0);
  REQUIRE(refs.size() == 1);
  CHECK(refs[0].input == "a.big");
  CHECK(refs[0].hash == "abcd");
  CHECK_THROWS_AS(run_attempt_message(d.state, d.key("b")), Fault);
}

TEST_CASE("core: compensation runs another plugin in place of the stage's own") {
  v1::WorkflowDefinition w = workflow_of({stage_def("pay"), stage_def("ship", {"pay"})});
  w.mutable_stages(0)->set_compensation_plugin("refund");
  w.mutable_stages(0)->set_compensation_plugin_version(3);
  Driver d;
  d.submit(w);
  d.run_stage("pay");
  d.start("ship");
  d.fail("ship", "BP_INTERNAL", false);
  REQUIRE(d.action<DispatchAttempt>());
  CHECK(d.action<DispatchAttempt>()->plugin == "refund");
  CHECK(d.action<DispatchAttempt>()->plugin_version == 3);
  CHECK(d.action<DispatchAttempt>()->mode == v1::ATTEMPT_MODE_DESTROY);
  d.run_stage("pay");
  CHECK(d.state.n.state == v1::RUN_STATE_FAILED);
}

TEST_CASE("core: a graph is torn down in the reverse of its dependencies") {
  v1::WorkflowDefinition w = workflow_of({stage_def("base"), stage_def("left", {"base"}),
                                          stage_def("right", {"base"}),
                                          stage_def("top", {"left", "right"})});
  for (auto& s : *w.mutable_stages()) s.set_has_destroy(true);
  Driver d;
  d.submit(w);
  d.run_stage("base");
  d.run_stage("left");
  d.run_stage("right");
  d.start("top");
  d.cancel();
  d.cancelled("top");
  CHECK(d.actions<DispatchAttempt>().size() == 1);
  d.run_stage("top");
  CHECK(d.actions<DispatchAttempt>().size() == 2);  // both branches at once
  d.run_stage("right");
  CHECK(d.at("base") == v1::STAGE_STATE_PENDING);
  d.run_stage("left");
  d.run_stage("base");
  CHECK(d.state.n.state == v1::RUN_STATE_CANCELLED);
}

TEST_CASE("core: the pinned plugin version is what a stage without one runs") {
  v1::WorkflowDefinition w = workflow_of({shared_def("a")});
  Driver d;
  v1::Event e = Feeder::submitted(w);
  (*e.mutable_submitted()->mutable_plugin_versions())["a_plugin"] = 4;
  d.feed(e);
  CHECK(d.action<SendShared>()->plugin_version == 4);
}

TEST_CASE("core: what a workflow cannot be is refused with its place") {
  Driver d;
  v1::WorkflowDefinition w = workflow_of({stage_def("a"), stage_def("b", {"a"})});
  auto& b = *w.mutable_stages(1);
  std::string place = "stage \"b\"";
  SECTION("no kind") { b.clear_plugin(); }
  SECTION("two kinds") { b.set_wait_signal("go"); }
  SECTION("an unbound input") { (*b.mutable_inputs())["x"].set_optional(true); }
  SECTION("an output from nowhere") { (*b.mutable_inputs())["x"].set_output("c.out"); }
  SECTION("an output that is no output") { (*b.mutable_inputs())["x"].set_output("a"); }
  SECTION("an output of a later stage") {
    (*w.mutable_stages(0)->mutable_inputs())["x"].set_output("b.out");
    place = "stage \"a\"";
  }
  SECTION("a map that serves") {
    b.mutable_map_over()->set_run_input("list");
    b.set_keeps_running(true);
  }
  SECTION("a service in a shared host") {
    b.set_isolation(v1::ISOLATION_SHARED);
    b.set_keeps_running(true);
  }
  SECTION("item twice") {
    b.mutable_map_over()->set_run_input("list");
    (*b.mutable_inputs())["item"].set_value("1");
  }
  SECTION("a wait with a teardown") {
    b.clear_plugin();
    b.set_sleep_ms(5);
    b.set_has_destroy(true);
  }
  SECTION("a time beyond reason") { b.set_run_timeout_ms(int64_t{1} << 60); }
  const std::string said = submit_with(d, w);
  INFO(said);
  CHECK(said.find(place) != std::string::npos);
  CHECK(d.state.run_id.empty());
}

TEST_CASE("core: a run without an input that its workflow needs is refused") {
  Driver d;
  v1::WorkflowDefinition w = workflow_of({stage_def("a")});
  w.add_required_inputs("dataset");
  CHECK(submit_with(d, w).find("\"dataset\"") != std::string::npos);
}
