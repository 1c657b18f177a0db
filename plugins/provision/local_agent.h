// LocalAgent: one bp-node process on this machine, its work folder and its identity.
//
// Whoever holds the lock on WORK/agent.lock is the agent: the lock proves it alive across restarts of
// everything else, and names its process through /proc/locks.
#pragma once
#include <optional>
#include <string>

#include "engine/base/process.h"
#include "engine/base/result.h"

namespace bp::stages {

struct LocalAgent {
  std::string node_id;
  uint32_t index = 0;
  std::string address;
  std::string work_dir;
  std::string cache_dir;
  std::string log_file;
  uint32_t cores = 1;
  uint64_t memory_bytes = 0;
};

/// The process that holds the agent's lock; kNotFound when nobody does.
Result<ProcessId> find_agent(const std::string& work_dir);

struct AgentPrograms {
  std::string bin_dir;
  std::string daemon_file;  // STATE_DIR/node_endpoint
  std::string run_id;
};
/// Starts bp-node in a session of its own. Does not wait for it.
Result<ProcessId> start_agent(const LocalAgent& agent, const AgentPrograms& programs);

std::string local_node_id(uint64_t run_number, uint32_t index);

/// The last lines of a text file, at most `max_bytes`; empty when there is none.
std::string tail_of(const std::string& path, size_t max_bytes);

}  // namespace bp::stages
