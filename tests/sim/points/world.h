// A whole world for one daemon, in one thread, from one seed: virtual time, the real journal on a
// simulated disk, stage hosts of their own and shared ones, messages that are lost, doubled, late
// and out of order, and a daemon that dies at any operation of its disk and starts again.
//
// What is outside of the daemon (hosts, effects, clients) goes on while it is down.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "bp/v1/control.pb.h"
#include "bp/v1/stage.pb.h"
#include "engine/shell/shell.h"
#include "engine/shell/world.h"
#include "tests/sim/crash_vfs.h"
#include "tests/sim/points/ledger.h"
#include "tests/sim/scheduler.h"

namespace bp::sim {

/// Chances per attempt, or per message.
struct Trouble {
  double fail = 0.06, crash = 0.04, hang = 0, ignore_cancel = 0.1, spawn_fails = 0.01;
  double shared_host_dies = 0.01;
  double drop = 0.01, twice = 0.02, late = 0.05;
};

class PointsWorld {
 public:
  PointsWorld(uint64_t seed, Trouble trouble);
  ~PointsWorld();

  std::map<std::string, v1::WorkflowDefinition> workflows;

  void start_daemon();
  bool up() const { return life_ != nullptr; }
  shell::Shell* shell();
  /// Until `done` or the virtual time is up; starts the daemon again when it has died.
  bool run_until(const std::function<bool()>& done, int64_t ms);
  /// One request through the client's socket; answers come to `take`, perhaps never.
  void ask(v1::ClientRequest request, std::function<void(const v1::ClientReply&)> take);
  /// No more trouble from here on: what was begun is to end.
  void be_kind() { trouble = Trouble{0, 0, 0, 0, 0, 0, 0, 0, 0}; }
  size_t living_hosts() const;
  /// The journal of the living daemon.
  storage::Journal& journal();
  /// Writes the disk's files into a folder of the real file system.
  void save_disk(const std::string& folder) const;

  Scheduler time;
  CrashVfs vfs;
  Ledger ledger;
  Trouble trouble;
  uint64_t lives = 0;
  /// An error was put in its way: it may refuse to start, once.
  bool may_refuse = false;

 private:
  class Clock;
  class Executor;
  class Random;
  class Journal;
  class Transport;
  class Processes;
  class Logs;
  struct Life;
  class Host;
  class OwnHost;
  class SharedHost;

  void to_daemon(shell::Channel channel, const std::string& routing_id, std::string payload);
  void to_host(const std::string& host_id, const std::string& payload);
  void answer(const std::string& payload);
  /// Calls `deliver` later, perhaps twice, perhaps never.
  void post(std::function<void()> deliver);
  Host* find_host(const std::string& id);
  void bury();
  void not_started(const Error& error);

  std::map<std::string, std::unique_ptr<Host>> hosts_;
  std::map<uint64_t, std::function<void(const v1::ClientReply&)>> asked_;
  std::unique_ptr<Life> life_;
  bool stopped_ = false;  // the daemon found its journal unusable
  uint64_t next_request_ = 1, next_id_ = 1;
  int32_t next_pid_ = 100;
};

/// True while code of the daemon runs: allocations may then be made to fail.
extern bool g_in_daemon;

}  // namespace bp::sim
