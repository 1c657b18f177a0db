// ClientApi: control.proto. Every answer shows only what is durable. Streams (watch, logs) end with
// a reply that has `final`, when their client is gone, or when the run is. Thread: the executor's.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "bp/v1/control.pb.h"
#include "engine/shell/admission.h"
#include "engine/shell/conductor.h"
#include "engine/shell/engine_api.h"
#include "engine/shell/hosts.h"
#include "engine/shell/nodes.h"
#include "engine/shell/secret_box.h"
#include "engine/shell/settings.h"
#include "engine/shell/shared_hosts.h"
#include "engine/shell/world.h"

namespace bp::shell {

inline constexpr uint32_t kControlProtocol = 1;

class ClientApi {
 public:
  struct Hooks {
    std::function<void()> shutdown;
    /// Checks of the machine, each a finding; from the daemon.
    std::function<std::vector<v1::DoctorFinding>()> machine_findings;
  };
  ClientApi(World& world, const Settings& settings, Conductor& conductor, Hosts& hosts,
            SharedHosts& shared, NodeRegistry& nodes, const SecretBox& box,
            WorkflowRegistry& workflows, EngineApi& engine, Hooks hooks);
  ~ClientApi();

  /// Starts a run; `schedule` is on record, `extra` (may be empty) goes into its commit. An empty
  /// run_id: refused.
  v1::SubmittedRun start_run(const std::string& by, const v1::NewRun& m,
                             const std::string& schedule, const Schedules::Hooks::AddExtra& extra);
  void on_request(const bus::Peer& peer, const v1::ClientRequest& request);
  /// The run changed: watchers get a view soon, or now when `at_once`.
  void changed(const std::string& run_id, bool at_once);
  void logged(const std::string& run_id, const std::string& stage);
  void run_ended(const std::string& run_id);
  /// Durable: whoever waits for the end of runs is told at the end of the turn.
  void ended(const storage::EndedRow& row);
  void unreachable(const std::string& routing_id);

 private:
  struct Asker {
    std::string routing_id;
    uint64_t request_id = 0;
    auto operator<=>(const Asker&) const = default;
  };
  struct Watch {
    std::string run_id;
    bool until_ready = false;
    uint64_t last_event = 0;
  };
  struct Tail {
    std::string run_id, stage, node_id, process_key;
    bool follow = false;
    std::map<std::string, uint64_t> offsets;  // by stage
    uint64_t node_offset = 0;
    std::string partial;
  };

  void reply(const Asker& to, v1::ClientReply r, bool final = true);
  void fail(const Asker& to, const Error& e);
  void ping(const Asker& to);
  void submit(const Asker& to, const bus::Peer& peer, const v1::Submit& m);
  bool answer_existing(const Asker& to, const v1::Submit& m, const v1::Recipe& recipe);
  void submit_runs(const Asker& to, const bus::Peer& peer, const v1::SubmitRuns& m);
  Result<bool> existing_run(const v1::NewRun& m, v1::SubmittedRun* out) const;
  void watch_ends(const Asker& to, const v1::WatchEnds& m);
  void tell_end(const Asker& to, const v1::RunEnd& end);
  void tell_ends_soon();
  void tell_ends();
  void plan(const Asker& to, const v1::PlanQuery& m);
  void list(const Asker& to, const v1::ListRuns& m);
  Status list_into(const v1::ListRuns& m, v1::RunList* list);
  void show(const Asker& to, const v1::ShowRun& m);
  void watch(const Asker& to, const v1::WatchRun& m);
  void logs(const Asker& to, const v1::ReadStageLog& m);
  void cancel(const Asker& to, const bus::Peer& peer, const v1::CancelRun& m);
  void retry(const Asker& to, const bus::Peer& peer, const v1::RetryRun& m);
  void stop(const Asker& to, const bus::Peer& peer, const v1::StopRun& m);
  void access(const Asker& to, const v1::AccessQuery& m);
  /// kUnavailable while the deployment has no head, or has ended.
  Result<v1::Access> access_of(const std::string& id_or_name);
  void doctor(const Asker& to, const v1::DoctorQuery& m);
  void say(const Asker& to, v1::DoctorFinding finding);
  void journal_findings(const Asker& to, const v1::ClientReply& checked);
  void run_findings(const Asker& to, const core::RunState& run);
  void replay_ended(const Asker& to, uint64_t before, uint64_t done, uint64_t wrong);
  std::string ended_difference(const storage::EndedRow& row);
  void replay_one(const Asker& to, const std::string& id);
  std::vector<v1::DoctorFinding> processes_of(const core::RunState& run);
  std::vector<std::string> replay();

  Result<v1::RunView> view(const std::string& id_or_name);
  Result<v1::RunView> view_then(const std::string& id_or_name, Moment moment);
  v1::RunView view_of(const core::RunState& run);
  const v1::Progress* progress_of(const core::RunState& run,
                                  const core::StageInstance& stage) const;
  bool same_retry(const std::string& run_id, const std::string& key) const;
  Result<core::RunState> load(const std::string& id_or_name);
  void accept(const Asker& to, const std::string& run_id);
  void tell(const std::string& run_id);
  bool tell_watch(const Asker& to, Watch& w);
  void read_stage_log(const Asker& to, const std::string& stage);
  void on_node_log(const Asker& to, const v1::NodeCommandReply& answer);
  void read_node_log(const Asker& to);
  void end_tail(const Asker& to);
  void send_line(const Asker& to, const std::string& source, const std::string& line);

  World& world_;
  const Settings& settings_;
  Conductor& conductor_;
  Hosts& hosts_;
  SharedHosts& shared_;
  NodeRegistry& nodes_;
  const SecretBox& box_;
  WorkflowRegistry& workflows_;
  EngineApi& engine_;
  Hooks hooks_;
  /// Who waits for ends, and what is to be told at the end of this turn.
  struct Ends {
    bool all = false;
    size_t left = 0;  // runs that it still waits for
    v1::ClientReply pending;
  };
  std::map<Asker, Ends> ends_;
  std::unordered_map<uint64_t, std::vector<Asker>> ends_of_;  // by run number
  bool ends_posted_ = false;
  Admission admission_;
  std::map<Asker, Watch> watches_;
  std::map<Asker, Tail> tails_;
  std::map<std::string, Executor::TimerId> soon_;  // runs whose watchers are told after a pause
  int64_t started_wall_ms_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace bp::shell
