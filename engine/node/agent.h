// Agent: bp-node itself. Owns the state, the processes, the fetches and the link to the daemon, and
// answers the daemon's commands. One thread (the io_context) decides; fetches and sockets have
// their own.
#pragma once
#include <memory>
#include <string>

#include "engine/base/result.h"

namespace bp::node {

struct AgentOptions {
  std::string node_id, run_id;
  std::string work_dir, cache_dir;  // absolute
  std::string address;              // where this node's processes listen
  std::string daemon_file, key_file, bin_dir;
  uint32_t cores = 0;  // 0: all of the host
  uint64_t memory_bytes = 0;
};

class Agent {
 public:
  /// Takes WORK_DIR/agent.lock, the address, and the state of a predecessor. kConflict when another
  /// agent runs there; kPortBusy when the address is another node's.
  static Result<std::unique_ptr<Agent>> open(AgentOptions options);
  ~Agent();
  /// Until SIGTERM, SIGINT or ReleaseNode. Processes live on, except after ReleaseNode.
  Status run();

 private:
  struct Impl;
  explicit Agent(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace bp::node
