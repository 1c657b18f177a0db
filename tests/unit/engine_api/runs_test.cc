#include <catch2/catch.hpp>

#include "tests/unit/engine_api/fixture.h"

namespace bp::shell {
namespace {

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
  std::string start(const std::string& name,
                    const std::map<std::string, std::string>& labels = {}) {
    v1::NewRun run;
    run.set_workflow("line");
    run.set_name(name);
    run.set_idempotency_key("key of " + name);
    (*run.mutable_inputs())["what"] = "input of " + name;
    for (const auto& [k, v] : labels) (*run.mutable_labels())[k] = v;
    auto id = life->start(run, "", {});
    REQUIRE(id.ok());
    time.pass(1);
    return *id;
  }
  v1::RunState state(const std::string& id) { return life->conductor.find(id)->state(); }
  v1::ControlledRuns control(const v1::ControlRuns& m) {
    v1::ClientRequest q;
    *q.mutable_control_runs() = m;
    auto r = life->ask_one(q);
    INFO(r.error().message());
    REQUIRE(r.has_controlled_runs());
    return r.controlled_runs();
  }
};

v1::ControlRuns command(const std::string& key) {
  v1::ControlRuns m;
  m.set_request_key(key);
  return m;
}

TEST_CASE("a filter chooses the runs that a command is for") {
  Fixture f;
  std::vector<std::string> a;
  for (int i = 0; i < 5; ++i) a.push_back(f.start("a" + std::to_string(i), {{"team", "a"}}));
  const std::string other = f.start("other", {{"team", "b"}});
  auto m = command("p1");
  m.mutable_runs()->mutable_filter()->mutable_labels()->insert({"team", "a"});
  m.set_pause(true);
  m.set_dry_run(true);
  CHECK(f.control(m).matched() == 5);
  CHECK(f.state(a[0]) != v1::RUN_STATE_PAUSED);
  m.set_dry_run(false);
  auto r = f.control(m);
  REQUIRE(r.runs_size() == 5);
  CHECK(r.runs(0).state() == v1::RUN_STATE_PAUSED);
  CHECK(f.state(a[4]) == v1::RUN_STATE_PAUSED);
  CHECK(f.state(other) != v1::RUN_STATE_PAUSED);
  f.begin();  // durable
  CHECK(f.state(a[4]) == v1::RUN_STATE_PAUSED);
}

TEST_CASE("a command for many runs is worked off in slices and answered once") {
  Fixture f;
  for (int i = 0; i < 1'000; ++i) f.start("r" + std::to_string(i));
  auto m = command("c1");
  m.mutable_runs()->mutable_filter()->set_workflow("line");
  m.set_cancel(true);
  m.set_reason("enough");
  auto r = f.control(m);
  CHECK(r.matched() == 1'000);
  CHECK(r.runs_size() == 1'000);
  f.time.pass(1'000);
  CHECK(f.life->conductor.live_count() == 0);
}

TEST_CASE(
    "a repeated command changes nothing; a second signal under a new key is a second signal") {
  Fixture f;
  const std::string id = f.start("one");
  auto m = command("s1");
  m.mutable_runs()->add_ids("one");
  m.mutable_signal()->set_name("go");
  m.mutable_signal()->set_payload("x");
  f.control(m);
  const uint64_t after_one = f.life->conductor.find(id)->n.run_seq;
  f.control(m);
  CHECK(f.life->conductor.find(id)->n.run_seq == after_one);
  m.set_request_key("s2");
  f.control(m);
  CHECK(f.life->conductor.find(id)->n.run_seq == after_one + 1);
}

TEST_CASE("what cannot be done is said per run") {
  Fixture f;
  const std::string id = f.start("one");
  for (const char* stage : {"a", "b", "c"}) f.life->finish(id, stage, "done");
  auto m = command("p");
  m.mutable_runs()->add_ids(id);
  m.mutable_runs()->add_ids("nobody");
  m.set_pause(true);
  auto r = f.control(m);
  REQUIRE(r.runs_size() == 2);
  CHECK(r.runs(0).error().code() == "BP_CONFLICT");
  CHECK(r.runs(1).error().code() == "BP_NOT_FOUND");
  v1::ClientRequest q;
  *q.mutable_control_runs() = command("");
  q.mutable_control_runs()->set_pause(true);
  CHECK(f.life->ask_one(q).error().message().find("request key") != std::string::npos);
  *q.mutable_control_runs() = command("x");
  q.mutable_control_runs()->set_pause(true);
  CHECK(f.life->ask_one(q).error().message().find("no runs") != std::string::npos);
}

TEST_CASE("a failed run is retried in bulk, by what it failed with") {
  Fixture f;
  const std::string id = f.start("one");
  f.life->finish(id, "a", "done");
  f.life->finish(id, "b", "");
  REQUIRE(f.life->conductor.find(id) == nullptr);
  auto m = command("r");
  m.mutable_runs()->mutable_filter()->set_error_code("BP_INTERNAL");
  m.set_retry(true);
  auto r = f.control(m);
  REQUIRE(r.runs_size() == 1);
  INFO(r.runs(0).error().message());
  CHECK_FALSE(r.runs(0).has_error());
  REQUIRE(f.life->conductor.find(id) != nullptr);
  CHECK(f.life->conductor.find(id)->find("a")->state == v1::STAGE_STATE_SUCCEEDED);
}

TEST_CASE("a fork takes over what came before, and is one under its key") {
  Fixture f;
  const std::string id = f.start("one", {{"team", "a"}});
  f.life->finish(id, "a", "made by a");
  f.life->finish(id, "b", "made by b");
  f.life->finish(id, "c", "made by c");
  v1::ClientRequest q;
  q.mutable_fork()->set_id(id);
  q.mutable_fork()->set_from_stage("c");
  q.mutable_fork()->set_idempotency_key("f1");
  (*q.mutable_fork()->mutable_put_inputs())["what"] = "another input";
  auto r = f.life->ask_one(q);
  INFO(r.error().message());
  const std::string fork = r.submitted().run_id();
  REQUIRE_FALSE(fork.empty());
  CHECK(f.life->ask_one(q).submitted().run_id() == fork);
  const auto* run = f.life->conductor.find(fork);
  REQUIRE(run != nullptr);
  CHECK(run->find("b")->state == v1::STAGE_STATE_SUCCEEDED);
  CHECK(run->find("c")->state == v1::STAGE_STATE_QUEUED);
  v1::ClientRequest v;
  v.mutable_query()->set_id(fork);
  v.mutable_query()->add_values("a.value");
  v.mutable_query()->add_values("input.what");
  auto values = f.life->ask_one(v).values();
  CHECK(values.values().at("a.value") == "made by a");
  CHECK(values.values().at("input.what") == "another input");
  v.mutable_query()->add_values("c.value");
  CHECK(f.life->ask_one(v).error().message().find("c.value") != std::string::npos);
}

TEST_CASE("history, and the run as it was") {
  Fixture f;
  const std::string id = f.start("one");
  f.life->finish(id, "a", "made by a");
  const int64_t before_b = f.time.wall;
  f.time.pass(60'000);
  f.life->finish(id, "b", "made by b");
  v1::ClientRequest q;
  q.mutable_history()->set_id("one");
  q.mutable_history()->set_bodies(true);
  auto pages = f.life->ask(q);
  REQUIRE(pages.size() == 1);
  const auto& entries = pages[0].history().entries();
  REQUIRE(entries.size() == 5);  // submitted, a dispatched and ended, b dispatched and ended
  CHECK(entries[0].type() == "submitted");
  CHECK(entries[2].json().find("made by a") == std::string::npos);  // bytes are base64 there
  CHECK(entries[2].json().find("\"stage\":\"a\"") != std::string::npos);
  auto early = f.life->api.state("one", Moment{0, before_b});
  REQUIRE(early.ok());
  CHECK(early->find("a")->state == v1::STAGE_STATE_SUCCEEDED);
  CHECK(early->find("b")->state == v1::STAGE_STATE_QUEUED);
  auto first = f.life->api.state("one", Moment{1, 0});
  REQUIRE(first.ok());
  CHECK(first->find("a")->state == v1::STAGE_STATE_QUEUED);
  CHECK_FALSE(f.life->api.state("one", Moment{99, 0}).ok());
  CHECK_FALSE(f.life->api.state("one", Moment{0, 1}).ok());
  auto history = f.journal.history(early->run_number, f.life->conductor.find(id)->last_commit, 0);
  REQUIRE(history.ok());
  CHECK(replay_difference(*history, *f.life->conductor.find(id), f.life->conductor.workflows()) ==
        "");
  history->pop_back();
  CHECK(replay_difference(*history, *f.life->conductor.find(id), f.life->conductor.workflows())
            .find("ends with event 4") != std::string::npos);
}

TEST_CASE("definitions: versions, equal bytes, what is refused, and what a restart keeps") {
  Fixture f;
  auto add = [&](const v1::WorkflowDefinition& w) {
    v1::ClientRequest q;
    q.mutable_register_workflow()->set_definition(w.SerializeAsString());
    return f.life->ask_one(q);
  };
  auto first = add(line("mine"));
  INFO(first.error().message());
  REQUIRE(first.workflows().workflows_size() == 1);
  CHECK(first.workflows().workflows(0).version() == 1);
  CHECK(add(line("mine")).workflows().workflows(0).version() == 1);
  auto changed = line("mine");
  changed.mutable_stages(0)->set_run_timeout_ms(5);
  CHECK(add(changed).workflows().workflows(0).version() == 2);
  changed.set_version(1);
  CHECK(add(changed).error().code() == "BP_CONFLICT");
  auto bad = line("mine");
  bad.mutable_stages(1)->set_plugin("../evil");
  CHECK(add(bad).error().message().find("stages[1].plugin") != std::string::npos);
  f.begin();
  CHECK(f.life->workflows.find("mine", 0).ok());
  CHECK(f.life->workflows.find("mine", 1).ok());
  CHECK_FALSE(f.life->workflows.find("mine", 3).ok());
  CHECK(f.life->workflows.find("line", 0).ok());
  auto list = f.life->workflows.list({});
  REQUIRE(list.ok());
  CHECK(list->size() == 3);
}

}  // namespace
}  // namespace bp::shell
