#include "engine/shell/engine_api.h"

#include "engine/base/limits.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {

void refuse(const EngineApi::Reply& reply, const Error& error) {
  v1::ClientReply r;
  *r.mutable_error() = to_wire(error);
  reply(std::move(r), true);
}

void accept(const EngineApi::Reply& reply) {
  v1::ClientReply r;
  r.mutable_accepted();
  reply(std::move(r), true);
}

}  // namespace

EngineApi::EngineApi(World& world, Conductor& conductor, WorkflowRegistry& workflows, Hooks hooks)
    : world_(world),
      conductor_(conductor),
      workflows_(workflows),
      hooks_(std::move(hooks)),
      control_(world, conductor, workflows),
      schedules_(world, conductor, hooks_.schedules) {}
EngineApi::~EngineApi() = default;

bool EngineApi::handle(const v1::ClientRequest& m, const std::string& by, const Reply& reply) {
  switch (m.what_case()) {
    case v1::ClientRequest::kControlRuns:
      control_.control(m.control_runs(), by, [reply](Result<v1::ControlledRuns> done) {
        if (!done.ok()) return refuse(reply, done.error());
        v1::ClientReply r;
        *r.mutable_controlled_runs() = std::move(*done);
        reply(std::move(r), true);
      });
      return true;
    case v1::ClientRequest::kFork:
      fork(m.fork(), by, reply);
      return true;
    case v1::ClientRequest::kHistory:
      conductor_.after_durable([this, q = m.history(), reply] { history(q, reply); });
      return true;
    case v1::ClientRequest::kQuery:
      conductor_.after_durable([this, q = m.query(), reply] { query(q, reply); });
      return true;
    case v1::ClientRequest::kRegisterWorkflow:
      register_workflow(m.register_workflow(), reply);
      return true;
    case v1::ClientRequest::kListWorkflows:
      conductor_.after_durable([this, q = m.list_workflows(), reply] { list_workflows(q, reply); });
      return true;
    case v1::ClientRequest::kPutLimit:
      put_limit(m.put_limit(), reply);
      return true;
    case v1::ClientRequest::kListLimits: {
      v1::ClientReply r;
      r.mutable_limits();
      for (auto& l : hooks_.limits()) *r.mutable_limits()->add_limits() = std::move(l);
      reply(std::move(r), true);
      return true;
    }
    case v1::ClientRequest::kPutSchedule:
      put_schedule(m.put_schedule(), reply);
      return true;
    case v1::ClientRequest::kListSchedules:
      conductor_.after_durable([this, q = m.list_schedules(), reply] { list_schedules(q, reply); });
      return true;
    case v1::ClientRequest::kTriggerSchedule:
      trigger(m.trigger_schedule(), reply);
      return true;
    case v1::ClientRequest::kJournalTask:
      conductor_.after_durable([this, q = m.journal_task(), reply] { journal_task(q, reply); });
      return true;
    case v1::ClientRequest::kPauseDaemon:
      hooks_.pause_dispatch(m.pause_daemon().paused(), [reply] { accept(reply); });
      return true;
    case v1::ClientRequest::kMetrics: {
      v1::ClientReply r;
      for (const auto& [name, value] : hooks_.metrics())
        (*r.mutable_metrics()->mutable_values())[name] = value;
      reply(std::move(r), true);
      return true;
    }
    default:
      return false;
  }
}

void EngineApi::register_workflow(const v1::RegisterWorkflow& m, const Reply& reply) {
  v1::WorkflowDefinition definition;
  if (!m.definition_json().empty()) {
    auto parsed = parse_definition(m.definition_json());
    if (!parsed.ok()) return refuse(reply, parsed.error());
    definition = std::move(*parsed);
  } else if (!definition.ParseFromString(m.definition())) {
    return refuse(reply, Error{ErrorCode::kInvalidArgument,
                               "the definition is no WorkflowDefinition of journal.proto",
                               {}});
  }
  Status added = workflows_.add(std::move(definition), world_.clock.wall_ms(),
                                [reply](const v1::WorkflowEntry& entry) {
                                  v1::ClientReply r;
                                  *r.mutable_workflows()->add_workflows() = entry;
                                  reply(std::move(r), true);
                                });
  if (!added.ok()) refuse(reply, added.error());
}

void EngineApi::list_workflows(const v1::ListWorkflows& m, const Reply& reply) {
  auto list = workflows_.list(m);
  if (!list.ok()) return refuse(reply, list.error());
  v1::ClientReply r;
  r.mutable_workflows();
  for (auto& entry : *list) *r.mutable_workflows()->add_workflows() = std::move(entry);
  reply(std::move(r), true);
}

void EngineApi::put_limit(const v1::PutLimit& m, const Reply& reply) {
  const v1::Limit& l = m.limit();
  if (l.key().empty() || l.key().size() > limits::kNameBytes || !(l.rate_per_s() >= 0) ||
      l.rate_per_s() > 1e9) {
    return refuse(reply, Error{ErrorCode::kInvalidArgument,
                               "limit \"" + l.key() + "\": expected a key of 1 to " +
                                   std::to_string(limits::kNameBytes) +
                                   " bytes and a rate of 0 to 1e9 per second",
                               {}});
  }
  Status put = hooks_.put_limit(l, [reply] { accept(reply); });
  if (!put.ok()) refuse(reply, put.error());
}

void EngineApi::put_schedule(const v1::PutSchedule& m, const Reply& reply) {
  Status done;
  if (m.drop()) {
    done = schedules_.drop(m.schedule().name(), [reply] { accept(reply); });
  } else {
    const v1::NewRun& run = m.schedule().run();
    auto workflow = workflows_.find(run.workflow(), run.workflow_version());
    if (!workflow.ok()) return refuse(reply, workflow.error());
    done = schedules_.put(m.schedule(), [reply](const v1::Schedule& s) {
      v1::ClientReply r;
      *r.mutable_schedules()->add_schedules() = s;
      reply(std::move(r), true);
    });
  }
  if (!done.ok()) refuse(reply, done.error());
}

void EngineApi::list_schedules(const v1::ListSchedules& m, const Reply& reply) {
  auto list = schedules_.list(m.name());
  if (!list.ok()) return refuse(reply, list.error());
  v1::ClientReply r;
  r.mutable_schedules();
  for (auto& s : *list) *r.mutable_schedules()->add_schedules() = std::move(s);
  if (!m.name().empty() && m.upcoming() > 0) {
    auto times = schedules_.upcoming(m.name(), m.upcoming());
    if (!times.ok()) return refuse(reply, times.error());
    for (int64_t at : *times) r.mutable_schedules()->add_upcoming_wall_ms(at);
  }
  reply(std::move(r), true);
}

void EngineApi::journal_task(const v1::JournalTask& m, const Reply& reply) {
  RunPlace place;
  if (m.has_export_runs() && m.export_runs().ids_size() > 0) {
    if (m.export_runs().ids_size() > 1) {
      return refuse(reply, Error{ErrorCode::kInvalidArgument,
                                 "an export is of one run, or of all; found " +
                                     std::to_string(m.export_runs().ids_size()) + " ids",
                                 {}});
    }
    auto found = find(m.export_runs().ids(0));
    if (!found.ok()) return refuse(reply, found.error());
    place = {found->run_number, found->last_commit};
  }
  if (!m.has_archive()) return begin_task(m, place, reply);
  // What is still part of the tail to replay is not archived: snapshots first, and a commit after
  // them that says so.
  conductor_.settle([this, m, place, reply] {
    Extra extra;
    extra.meta["archive/asked_wall_ms"] = std::to_string(world_.clock.wall_ms());
    conductor_.write(std::move(extra), [this, m, place, reply] { begin_task(m, place, reply); });
  });
}

void EngineApi::begin_task(const v1::JournalTask& m, RunPlace place, const Reply& reply) {
  Status begun = hooks_.journal_task(m, place, [reply](Result<v1::JournalTaskProgress> outcome) {
    if (!outcome.ok()) return refuse(reply, outcome.error());
    v1::ClientReply r;
    *r.mutable_journal_task() = std::move(*outcome);
    reply(std::move(r), true);
  });
  if (!begun.ok()) refuse(reply, begun.error());
}

void EngineApi::trigger(const v1::TriggerSchedule& m, const Reply& reply) {
  if (m.request_key().empty())
    return refuse(reply, Error{ErrorCode::kInvalidArgument, "a trigger needs a request key", {}});
  auto started = schedules_.trigger(m.name(), m.request_key());
  if (!started.ok()) return refuse(reply, started.error());
  conductor_.after_durable([reply, id = *started] {
    v1::ClientReply r;
    r.mutable_runs_submitted()->add_runs()->set_run_id(id);
    reply(std::move(r), true);
  });
}

}  // namespace bp::shell
