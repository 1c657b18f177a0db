// The world as the shell sees it. Everything in this room reaches time, randomness, storage,
// sockets and processes through these interfaces alone, and runs on one thread (the executor's):
// the whole daemon runs from one seed in a test. The real implementations live in engine/daemon.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bp/v1/journal.pb.h"
#include "engine/base/clock.h"
#include "engine/base/process.h"
#include "engine/base/result.h"
#include "engine/bus/bus.h"
#include "storage/journal.h"

namespace bp::shell {

/// Runs closures one after another on one thread. post(): any thread; the rest: that thread only.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void post(std::function<void()> call) = 0;
  using TimerId = uint64_t;
  /// Runs `call` once after `delay_ms` (0: as soon as possible, still not inline). Never returns 0.
  virtual TimerId after(int64_t delay_ms, std::function<void()> call) = 0;
  virtual void cancel(TimerId timer) = 0;  // unknown or fired: nothing happens
};

class Random {
 public:
  virtual ~Random() = default;
  /// `prefix` + "-" + 16 characters of [0-9a-z].
  virtual std::string id(std::string_view prefix) = 0;
};

enum class Channel { kClients, kStages, kNodes };

/// The three listening sockets. Messages arrive through Shell::on_message.
class Transport {
 public:
  virtual ~Transport() = default;
  /// Does not block; what cannot be delivered is dropped (Shell::on_unreachable tells).
  virtual void send(Channel channel, const std::string& routing_id, std::string_view payload) = 0;
  /// From now on a node that presents this CURVE key (Z85) is let in as `user`.
  virtual void allow_node(const std::string& public_key, const std::string& user) = 0;
  virtual void forbid_node(const std::string& public_key) = 0;
};

struct HostSpec {
  std::string plugin;  // name; the file is PLUGIN_DIR/PLUGIN.so (or .py)
  std::string host_id;
  std::string plugin_hash;    // the file that a run pins, by content; empty: the installed one
  bool shared = false;        // many attempts; else one
  uint32_t slots = 0;         // shared: attempts at a time
  v1::ResourceLimits limits;  // not shared: what it may use
};

class Processes {
 public:
  virtual ~Processes() = default;
  /// Starts a bp-stage-host. kNotFound: no such plugin.
  virtual Result<ProcessId> spawn_host(const HostSpec& spec) = 0;
  /// A living stage host of this id that an earlier daemon started.
  virtual std::optional<ProcessId> find_host(const std::string& host_id) = 0;
  virtual bool alive(const ProcessId& id) = 0;
  virtual void kill(const ProcessId& id) = 0;  // SIGKILL
  /// Calls `gone` once, on the executor, when that very process is proven dead (at once if it is).
  /// `how`: "exited with 3", "killed by signal 9", or "ended" where nobody can tell.
  virtual void watch(const ProcessId& id, std::function<void(std::string how)> gone) = 0;
};

/// Text files of what stages logged: STATE_DIR/logs/RUN_ID/STAGE.log.
class StageLogs {
 public:
  virtual ~StageLogs() = default;
  virtual void append(const std::string& run_id, const std::string& stage,
                      const std::string& line) = 0;
  /// At most max_bytes from `offset`; empty at the end. Names of stages come from the workflow
  /// only.
  virtual std::string read(const std::string& run_id, const std::string& stage, uint64_t offset,
                           size_t max_bytes) = 0;
};

struct World {
  Executor& executor;
  Clock& clock;
  Random& random;
  storage::Journal& journal;
  Transport& transport;
  Processes& processes;
  StageLogs& logs;
};

}  // namespace bp::shell
