// RunControl: one command for many runs. Runs are worked off in slices, so that a command for a
// hundred thousand of them holds nobody up; the answer comes when all of it is durable. A command
// that is repeated under its key changes nothing: each run remembers the keys that it saw last.
// Thread: the executor's.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "bp/v1/control.pb.h"
#include "engine/shell/conductor.h"
#include "engine/shell/workflow_registry.h"

namespace bp::shell {

class RunControl {
 public:
  static constexpr size_t kRunsMax = 1'000'000;  // of one command
  static constexpr size_t kSlice = 256;          // runs per turn of the loop
  static constexpr int kShownMax = 10'000;       // in an answer; beyond it only refused ones

  RunControl(World& world, Conductor& conductor, WorkflowRegistry& workflows);
  ~RunControl();

  /// `by`: who asks, for the record. `done` gets the answer once everything is durable.
  void control(const v1::ControlRuns& m, const std::string& by,
               std::function<void(Result<v1::ControlledRuns>)> done);

 private:
  struct Task;
  Result<std::vector<std::string>> select(const v1::ControlRuns& m);
  Status select_matching(const v1::ControlRuns& m, std::vector<std::string>* ids);
  Result<v1::Event> event_for(const v1::ControlRuns& m, const std::string& by,
                              const core::RunState& run);
  void go_on(std::shared_ptr<Task> task);
  void one(Task& task, const std::string& id);
  Status feed(Task& task, const std::string& id, v1::RunState* state, std::string* run_id);

  World& world_;
  Conductor& conductor_;
  WorkflowRegistry& workflows_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace bp::shell
