#include "engine/shell/run_control.h"

#include <algorithm>

#include "engine/base/limits.h"
#include "engine/shell/run_filter.h"
#include "engine/shell/wire.h"

namespace bp::shell {

struct RunControl::Task {
  v1::ControlRuns command;
  std::string by;
  std::vector<std::string> ids;
  size_t next = 0;
  v1::ControlledRuns answer;
  std::function<void(Result<v1::ControlledRuns>)> done;
};

namespace {

// Only these can be asked of a run that has ended.
bool revives(const v1::ControlRuns& m) {
  return m.what_case() == v1::ControlRuns::kRetry || m.what_case() == v1::ControlRuns::kStop;
}

}  // namespace

RunControl::RunControl(World& world, Conductor& conductor, WorkflowRegistry& workflows)
    : world_(world), conductor_(conductor), workflows_(workflows) {}
RunControl::~RunControl() { *alive_ = false; }

Status RunControl::select_matching(const v1::ControlRuns& m, std::vector<std::string>* ids) {
  const v1::RunFilter& filter = m.runs().filter();
  conductor_.each_run([&](const core::RunState& run) {
    if (matches(filter, run)) ids->push_back(run.run_id);
  });
  if (!revives(m) || !may_match_ended(filter)) return {};
  storage::EndedQuery q = ended_query(filter);
  q.limit = 1'000;
  while (ids->size() <= kRunsMax) {
    BP_ASSIGN(auto rows, conductor_.ended(q));
    for (const auto& row : rows) ids->push_back(row.run_id);
    if (rows.size() < q.limit) break;
    q.before_run_number = rows.back().run_number;
  }
  return {};
}

Result<std::vector<std::string>> RunControl::select(const v1::ControlRuns& m) {
  std::vector<std::string> ids(m.runs().ids().begin(), m.runs().ids().end());
  if (ids.empty() && !m.runs().has_filter()) {
    return Error{ErrorCode::kInvalidArgument, "the command names no runs and no filter", {}};
  }
  if (m.runs().has_filter()) BP_TRY(select_matching(m, &ids));
  if (ids.size() > kRunsMax) {
    return Error{ErrorCode::kTooLarge, "more than " + std::to_string(kRunsMax) + " runs match",
                 "Narrow the filter, by time of creation for instance"};
  }
  return ids;
}

void RunControl::control(const v1::ControlRuns& m, const std::string& by,
                         std::function<void(Result<v1::ControlledRuns>)> done) {
  if (m.what_case() == v1::ControlRuns::WHAT_NOT_SET) {
    return done(Error{ErrorCode::kInvalidArgument, "the command says nothing to do", {}});
  }
  if (m.request_key().empty() || m.request_key().size() > limits::kNameBytes) {
    return done(Error{
        ErrorCode::kInvalidArgument,
        "a command needs a request key of 1 to " + std::to_string(limits::kNameBytes) + " bytes",
        {}});
  }
  auto ids = select(m);
  if (!ids.ok()) return done(ids.error());
  auto task = std::make_shared<Task>();
  task->command = m;
  task->by = by;
  task->ids = std::move(*ids);
  task->answer.set_matched(uint32_t(task->ids.size()));
  task->done = std::move(done);
  go_on(std::move(task));
}

void RunControl::go_on(std::shared_ptr<Task> task) {
  const size_t end = std::min(task->ids.size(), task->next + kSlice);
  while (task->next < end) one(*task, task->ids[task->next++]);
  if (task->next < task->ids.size()) {
    world_.executor.post([this, alive = alive_, task] {
      if (*alive) go_on(task);
    });
    return;
  }
  conductor_.after_durable([task] { task->done(std::move(task->answer)); });
}

void RunControl::one(Task& task, const std::string& id) {
  v1::RunState state = v1::RUN_STATE_UNSPECIFIED;
  std::string run_id = id;
  const Status fed = feed(task, id, &state, &run_id);
  if (fed.ok() && task.answer.runs_size() >= kShownMax) return;
  auto* r = task.answer.add_runs();
  r->set_run_id(run_id);
  r->set_state(state);
  if (!fed.ok()) *r->mutable_error() = to_wire(fed.error());
}

Status RunControl::feed(Task& task, const std::string& id, v1::RunState* state,
                        std::string* run_id) {
  const core::RunState* run = conductor_.find_live(id);
  bool revived = false;
  if (!run) {
    BP_ASSIGN(auto row, conductor_.find_ended(id));
    *run_id = row.run_id;
    *state = v1::RunState(row.state);
    if (!revives(task.command)) {
      return Error{ErrorCode::kConflict,
                   "run " + row.run_id + " has ended (" + v1::RunState_Name(*state) + ")",
                   {}};
    }
    if (task.command.dry_run()) return {};
    BP_TRY(conductor_.revive(row.run_id));
    revived = true;
    run = conductor_.find(row.run_id);
    BP_CHECK(run != nullptr);
  }
  *run_id = run->run_id;
  *state = run->state();
  if (task.command.dry_run()) return {};
  auto event = event_for(task.command, task.by, *run);
  Status fed = event.ok() ? conductor_.feed(*run_id, std::move(*event)) : Status(event.error());
  if (const core::RunState* now = conductor_.find(*run_id)) *state = now->state();
  if (revived) conductor_.forget(*run_id);
  return fed;
}

Result<v1::Event> RunControl::event_for(const v1::ControlRuns& m, const std::string& by,
                                        const core::RunState& run) {
  v1::Event e;
  e.set_request_key(m.request_key());
  switch (m.what_case()) {
    case v1::ControlRuns::kCancel:
      e.mutable_cancel_requested()->set_by(by);
      e.mutable_cancel_requested()->set_reason(m.reason());
      break;
    case v1::ControlRuns::kStop:
      e.mutable_stop_requested()->set_by(by);
      break;
    case v1::ControlRuns::kPause:
      e.mutable_pause_requested()->set_by(by);
      e.mutable_pause_requested()->set_reason(m.reason());
      break;
    case v1::ControlRuns::kResume:
      e.mutable_resume_requested()->set_by(by);
      break;
    case v1::ControlRuns::kRetry:
      e.mutable_retry_requested()->set_by(by);
      e.mutable_retry_requested()->set_from_failed(true);
      break;
    case v1::ControlRuns::kSignal:
      e.mutable_signal_received()->set_name(m.signal().name());
      e.mutable_signal_received()->set_payload(m.signal().payload());
      e.mutable_signal_received()->set_by(by);
      break;
    case v1::ControlRuns::kChange:
      *e.mutable_run_changed() = m.change();
      e.mutable_run_changed()->set_by(by);
      break;
    case v1::ControlRuns::kMigrate: {
      const std::string& name =
          m.migrate().workflow().empty() ? run.workflow->name() : m.migrate().workflow();
      if (m.migrate().plugins()) {
        return Error{ErrorCode::kInvalidArgument,
                     "runs do not pin plugin files yet: every attempt takes the installed one",
                     "Name the definition to move onto, without plugins"};
      }
      auto* to = e.mutable_run_migrated();
      to->set_by(by);
      BP_ASSIGN(auto onto, workflows_.find(name, m.migrate().workflow_version()));
      to->set_workflow_hash(onto->hash());
      break;
    }
    case v1::ControlRuns::kRelease:
      e.mutable_run_released()->set_by(by);
      e.mutable_run_released()->set_cancel(m.release().cancel());
      break;
    default:
      return Error{ErrorCode::kProtocol, "a command of an unknown kind", {}};
  }
  return e;
}

}  // namespace bp::shell
