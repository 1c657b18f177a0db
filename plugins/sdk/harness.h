// For tests of stages, without a daemon.
//
// StageHarness runs a Stage object in this process behind the same C table that the host offers; the
// node behind node_call is a function of the test. PluginHarness runs a built .so in a real
// bp-stage-host and plays the daemon towards it, so that a plugin that crashes does not take the test along.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bp/v1/stage.pb.h"
#include "engine/base/process.h"
#include "plugins/sdk/stage.h"

namespace bp::sdk {

/// Answers a command to a node as the node would. Called on the stage's threads, one call at a time.
using ScriptedNode = std::function<v1::NodeCommandReply(const std::string& node_id, const v1::NodeCommand&)>;

/// A reply that is an error.
v1::NodeCommandReply node_error(ErrorCode code, const std::string& message);

/// What an attempt said and did.
struct Recorded {
  std::vector<v1::AttemptBeat> beats;
  std::vector<v1::NodeCall> calls;
  std::vector<std::string> logs;              // "level: text"
  std::map<std::string, std::string> secrets; // put by the stage
  v1::AttemptBeat merged() const;             // the newest of every field
};

class StageHarness {
 public:
  StageHarness();
  ~StageHarness();
  /// Both may be filled in before run(); they start as attempt 1 of run "r-test", stage "test".
  v1::AttemptRef ref;
  v1::RunAttempt attempt;
  ScriptedNode node;  // empty: every call meets its deadline

  /// Runs the stage in this thread.
  v1::AttemptResult run(Stage& stage);
  // Any thread, also while run() is under way.
  void cancel();
  void notify(const v1::NodeNotice& notice);
  Recorded recorded() const;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

struct PluginHarnessOptions {
  std::string host_program;  // bp-stage-host
  std::string plugin;        // the .so
  std::string run_dir;       // holds the socket; must exist
  std::vector<std::string> host_args;
};

/// Thread-confined but for what PluginHarness::Impl serves on its own thread.
class PluginHarness {
 public:
  static Result<std::unique_ptr<PluginHarness>> start(PluginHarnessOptions options);
  ~PluginHarness();  // kills the host if it still runs

  void set_node(ScriptedNode node);
  /// HostHello, with load_error when the plugin was refused.
  Result<v1::HostHello> hello(Deadline deadline);
  void send_attempt(const v1::AttemptRef& ref, const v1::RunAttempt& attempt);
  void send_cancel(int64_t deadline_ms);
  void send_notice(const v1::NodeNotice& notice);
  /// Waits for the result; acknowledges it unless told not to.
  Result<v1::AttemptResult> result(Deadline deadline, bool acknowledge = true);
  /// Waits for the host to end; its exit code, or minus the signal.
  Result<int> exit_code(Deadline deadline);
  /// The daemon goes away: the socket is closed, and bound anew by come_back().
  void go_away();
  Status come_back();
  const ProcessId& host() const;
  Recorded recorded() const;
  uint64_t hellos() const;
  uint64_t results_seen() const;

  struct Impl;

 private:
  explicit PluginHarness(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace bp::sdk
