#include "tests/unit/engine_api/fixture.h"

#include <catch2/catch.hpp>

namespace bp::shell {

v1::WorkflowDefinition line(const std::string& name) {
  v1::WorkflowDefinition w;
  w.set_name(name);
  std::string before;
  for (const char* stage : {"a", "b", "c"}) {
    auto* s = w.add_stages();
    s->set_name(stage);
    s->set_plugin("nothing");
    s->mutable_retry()->set_max_attempts(1);
    s->set_run_timeout_ms(60'000);
    if (!before.empty()) s->add_after(before);
    before = stage;
  }
  return w;
}

Conductor::Hooks Life::conductor_hooks() {
  Conductor::Hooks h;
  h.act = [](const core::Action&) {};
  h.changed = [](const core::RunState&) {};
  h.ended = [this](const storage::EndedRow& row) { api.run_ended(row.run_id); };
  h.fatal = [](Status s) { FAIL("journal: " << s.error().message); };
  h.may_dispatch = [] { return false; };
  return h;
}

EngineApi::Hooks Life::api_hooks() {
  EngineApi::Hooks h;
  h.schedules.start = [this](const v1::NewRun& run, const std::string& schedule,
                             const Schedules::Hooks::AddExtra& extra) {
    return start(run, schedule, extra);
  };
  h.schedules.cancel = [this](const std::string& run_id, const std::string& why) {
    v1::Event e;
    e.mutable_cancel_requested()->set_by("schedule");
    e.mutable_cancel_requested()->set_reason(why);
    return conductor.feed(run_id, std::move(e));
  };
  h.put_limit = [](const v1::Limit&, std::function<void()> durable) {
    durable();
    return Status();
  };
  h.limits = [] { return std::vector<v1::Limit>(); };
  h.pause_dispatch = [this](bool on, std::function<void()> durable) {
    paused = on;
    durable();
  };
  h.journal_task = [](const v1::JournalTask&, EngineApi::RunPlace place,
                      EngineApi::TaskReport report) {
    v1::JournalTaskProgress p;
    p.set_runs(place.run_number);
    report(std::move(p));
    return Status();
  };
  h.metrics = [] { return std::map<std::string, double>{{"bp_runs_live", 1}}; };
  return h;
}

void Life::load() {
  REQUIRE(conductor.load().ok());
  REQUIRE(workflows.load({{"line", line("line")}}, time.wall_ms()).ok());
  REQUIRE(api.load().ok());
  conductor.recover([] {});
  time.pass(1);
  api.start();
  time.pass(1);
}

Result<std::string> Life::start(const v1::NewRun& run, const std::string& schedule,
                                const Schedules::Hooks::AddExtra& extra) {
  BP_ASSIGN(auto known, conductor.find_key(run.idempotency_key()));
  if (known && !run.idempotency_key().empty()) return known->run_id;
  BP_ASSIGN(auto workflow, workflows.find(run.workflow(), run.workflow_version()));
  v1::RunSubmitted s;
  s.set_run_id(conductor.next_run_id());
  s.set_name(run.name().empty() ? s.run_id() : run.name());
  s.set_idempotency_key(run.idempotency_key());
  s.set_schedule(schedule);
  *s.mutable_inputs() = run.inputs();
  *s.mutable_labels() = run.labels();
  const std::string id = s.run_id();
  BP_TRY(conductor.submit(std::move(s), workflow, {}, extra ? extra(id) : Extra{}));
  started.push_back(id);
  return id;
}

std::vector<v1::ClientReply> Life::ask(const v1::ClientRequest& request) {
  std::vector<v1::ClientReply> replies;
  bool final = false;
  const bool known = api.handle(request, "uid 7", [&](v1::ClientReply r, bool last) {
    replies.push_back(std::move(r));
    final = last;
  });
  REQUIRE(known);
  for (int i = 0; i < 1'000 && !final; ++i) time.pass(1);
  REQUIRE(final);
  return replies;
}

v1::ClientReply Life::ask_one(const v1::ClientRequest& request) {
  auto replies = ask(request);
  REQUIRE(replies.size() == 1);
  return replies.front();
}

void Life::finish(const std::string& run_id, const std::string& stage, const std::string& output) {
  const core::RunState* run = conductor.find(run_id);
  REQUIRE(run != nullptr);
  const core::StageInstance* s = run->find(stage);
  REQUIRE(s != nullptr);
  v1::Epoch epoch;
  epoch.set_incarnation(s->epoch.incarnation);
  epoch.set_counter(s->epoch.counter);
  v1::Event dispatched;
  dispatched.mutable_dispatched()->set_stage(stage);
  dispatched.mutable_dispatched()->set_attempt(s->attempt);
  *dispatched.mutable_dispatched()->mutable_epoch() = epoch;
  dispatched.mutable_dispatched()->set_host_id("h-1");
  REQUIRE(conductor.feed(run_id, std::move(dispatched)).ok());
  v1::Event ended;
  ended.mutable_ended()->set_stage(stage);
  *ended.mutable_ended()->mutable_epoch() = epoch;
  ended.mutable_ended()->set_succeeded(!output.empty());
  if (!output.empty()) {
    (*ended.mutable_ended()->mutable_outputs())["value"] = output;
  } else {
    ended.mutable_ended()->mutable_error()->set_code("BP_INTERNAL");
    ended.mutable_ended()->mutable_error()->set_message("failed on purpose");
  }
  REQUIRE(conductor.feed(run_id, std::move(ended)).ok());
  time.pass(1);
}

}  // namespace bp::shell
