// Shell: the whole daemon but for the real world. Wires conductor, timers, stage hosts, nodes and
// the client API together. Thread: the executor's.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bp/v1/control.pb.h"
#include "engine/shell/engine_api.h"
#include "engine/shell/settings.h"
#include "engine/shell/world.h"

namespace bp::core {
struct RunState;
}

namespace bp::shell {

class Shell {
 public:
  struct Hooks {
    std::function<void(Status)> fatal;  // the journal is unusable: end the process with an error
    std::function<void()> shutdown;     // a client asked an embedded daemon to end
    std::function<std::vector<v1::DoctorFinding>()> machine_findings;
    std::function<Status(const v1::JournalTask&, EngineApi::RunPlace, EngineApi::TaskReport)>
        journal_task;
  };
  Shell(World world, Settings settings, Hooks hooks);
  ~Shell();

  /// Reads the journal and takes up every live run: re-attaches first, judges later.
  Status start();
  /// No more events or actions; deployments, hosts and nodes run on.
  void stop();
  /// Puts snapshots of all runs, so that the next start is quick; `done` when they are durable.
  void settle(std::function<void()> done);

  void on_message(Channel channel, const bus::Peer& peer, std::string_view payload);
  void on_unreachable(Channel channel, const std::string& routing_id);

  /// An event of a live run, for tests: as a client's command would feed it. kNotFound, or what the
  /// core refuses; `durable` runs when it is on record.
  Status feed(const std::string& run_id, v1::Event event, std::function<void()> durable);
  /// For tests and metrics.
  void each_run(const std::function<void(const core::RunState&)>& call) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bp::shell
