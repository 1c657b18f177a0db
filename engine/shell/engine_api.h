// EngineApi: the part of control.proto about runs of any workflow: control in bulk, fork, history,
// values, definitions, limits, schedules. ClientApi hands such requests on; every answer shows only
// what is durable. Thread: the executor's.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bp/v1/control.pb.h"
#include "engine/shell/conductor.h"
#include "engine/shell/run_control.h"
#include "engine/shell/schedules.h"
#include "engine/shell/time_travel.h"
#include "engine/shell/workflow_registry.h"

namespace bp::shell {

class EngineApi {
 public:
  using Reply = std::function<void(v1::ClientReply reply, bool final)>;
  struct RunPlace {
    uint64_t run_number = 0;  // 0: of all runs
    uint64_t last_commit = 0;
  };
  using TaskReport = std::function<void(Result<v1::JournalTaskProgress>)>;
  struct Hooks {
    /// Long work on the journal, on a thread of its own.
    std::function<Status(const v1::JournalTask& task, RunPlace place, TaskReport report)>
        journal_task;
    Schedules::Hooks schedules;
    std::function<Status(const v1::Limit& limit, std::function<void()> durable)> put_limit;
    std::function<std::vector<v1::Limit>()> limits;
    std::function<void(bool paused, std::function<void()> durable)> pause_dispatch;
    std::function<std::map<std::string, double>()> metrics;
  };
  EngineApi(World& world, Conductor& conductor, WorkflowRegistry& workflows, Hooks hooks);
  ~EngineApi();

  /// Reads schedules; after the conductor has loaded. start(): once the daemon works.
  Status load() { return schedules_.load(); }
  void start() { schedules_.start(); }
  void run_ended(const std::string& run_id) { schedules_.run_ended(run_id); }

  /// False: not one of its requests. `by`: who asks, for the record.
  bool handle(const v1::ClientRequest& request, const std::string& by, const Reply& reply);

  /// A run as it is, or was; `moment` {} is now. kNotFound.
  Result<core::RunState> state(const std::string& id_or_name, Moment moment);

 private:
  struct Found {
    std::string run_id;
    uint64_t run_number, last_commit;
  };
  Result<Found> find(const std::string& id_or_name);
  Result<std::vector<storage::Entry>> history_of(const std::string& id_or_name);
  void fork(const v1::ForkRun& m, const std::string& by, const Reply& reply);
  Result<std::string> start_fork(const v1::ForkRun& m, const std::string& by,
                                 std::function<void()> durable);
  Status lend(const v1::RunSubmitted& fork);
  void take_back(const v1::TakenStage& taken, const std::string& borrower);
  void history(const v1::RunHistory& m, const Reply& reply);
  void query(const v1::QueryRun& m, const Reply& reply);
  Result<v1::RunValues> values(const core::RunState& run, const v1::QueryRun& m);
  void register_workflow(const v1::RegisterWorkflow& m, const Reply& reply);
  void list_workflows(const v1::ListWorkflows& m, const Reply& reply);
  void put_limit(const v1::PutLimit& m, const Reply& reply);
  void put_schedule(const v1::PutSchedule& m, const Reply& reply);
  void list_schedules(const v1::ListSchedules& m, const Reply& reply);
  void trigger(const v1::TriggerSchedule& m, const Reply& reply);
  void journal_task(const v1::JournalTask& m, const Reply& reply);
  void begin_task(const v1::JournalTask& m, RunPlace place, const Reply& reply);

  World& world_;
  Conductor& conductor_;
  WorkflowRegistry& workflows_;
  Hooks hooks_;
  RunControl control_;
  Schedules schedules_;
};

}  // namespace bp::shell
