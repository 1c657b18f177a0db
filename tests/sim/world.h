// A whole world for one daemon, in one thread, from one seed: virtual time, a store that loses what
// was not durable, stage hosts that succeed, fail, crash, hang and answer late, messages that take
// their time, and a daemon that dies at any point and starts again.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "bp/v1/control.pb.h"
#include "bp/v1/stage.pb.h"
#include "engine/shell/shell.h"
#include "engine/shell/world.h"
#include "storage/memory_journal.h"

namespace bp::sim {

/// Virtual time and everything that is due.
class Scheduler {
 public:
  explicit Scheduler(uint64_t seed) : random(seed) {}
  void at(int64_t ms, std::function<void()> call) { queue_.push({ms, next_++, std::move(call)}); }
  void in(int64_t ms, std::function<void()> call) { at(now + ms, std::move(call)); }
  /// False when nothing is left to do.
  bool step();
  int64_t pick(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  }
  bool chance(double p) { return std::uniform_real_distribution<double>(0, 1)(random) < p; }

  int64_t now = 1'000'000;
  std::mt19937_64 random;

 private:
  struct Due {
    int64_t at;
    uint64_t order;
    std::function<void()> call;
    bool operator<(const Due& o) const { return at != o.at ? at > o.at : order > o.order; }
  };
  std::priority_queue<Due> queue_;
  uint64_t next_ = 0;
};

/// What a stage host does with an attempt.
struct Behaviour {
  double fail = 0.1, fail_for_good = 0, crash = 0.1, hang = 0.03, rewind = 0.05,
         ignore_cancel = 0.2;
  double spawn_fails = 0.03, crash_early = 0.03;
};

class World {
 public:
  World(uint64_t seed, Behaviour behaviour);
  ~World();

  void start_daemon();
  void crash_daemon();
  bool daemon_up() const { return shell_ != nullptr; }
  void run_for(int64_t ms);
  /// Until `done` or the time is up.
  bool run_until(const std::function<bool()>& done, int64_t ms);

  /// Sends a request; its replies are gathered under the returned id.
  uint64_t ask(v1::ClientRequest request);
  /// Raw bytes from anybody.
  void inject(shell::Channel channel, const std::string& routing_id, std::string payload) {
    to_daemon(channel, routing_id, std::move(payload));
  }
  const std::vector<v1::ClientReply>& replies(uint64_t id) { return replies_[id]; }

  v1::RunState state_of(const std::string& id);
  /// Everything durable, in order.
  std::vector<storage::Entry> entries();
  /// Durable runs of this name.
  size_t runs_named(const std::string& name);
  size_t living_hosts() const;

  Scheduler time;
  storage::MemoryJournal journal;
  Behaviour behaviour;
  std::vector<std::string> violations;
  uint64_t attempts_begun = 0, hosts_started = 0, crashes = 0;

 private:
  struct Host;
  class SimExecutor;
  class SimClock;
  class SimRandom;
  class SimJournal;
  class SimTransport;
  class SimProcesses;
  class SimLogs;
  struct Daemon;

  void to_daemon(shell::Channel channel, const std::string& routing_id, std::string payload);
  void to_host(const std::string& host_id, const std::string& payload);
  void say(Host& host, v1::StageMessage message);
  void hello(const std::string& host_id);
  void beat(const std::string& host_id);
  void begin(Host& host, const v1::StageMessage& m);
  void finish(const std::string& host_id, v1::AttemptResult result);
  void repeat_result(const std::string& host_id);
  void on_cancel(Host& host);
  void die(const std::string& host_id);
  Host* alive(const std::string& host_id);

  std::map<std::string, std::unique_ptr<Host>> hosts_;
  std::map<uint64_t, std::vector<v1::ClientReply>> replies_;
  std::unique_ptr<Daemon> daemon_;
  shell::Shell* shell_ = nullptr;
  uint64_t next_request_ = 1;
  int32_t next_pid_ = 100;
  uint64_t next_id_ = 1;
};

/// A line of three stages, the last of which keeps running, all with teardown.
v1::WorkflowDefinition three_stages();
std::string small_recipe(const std::string& name);

}  // namespace bp::sim
