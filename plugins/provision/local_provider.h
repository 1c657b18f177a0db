// LocalProvider: nodes as processes of this machine, one bp-node each, with an address of a block of
// 127.0.0.0/8 that is chosen once per deployment and kept in its handle (address_block.h), a work folder
// STATE_DIR/nodes/NODE_ID, and a weight cache STATE_DIR/cache/INDEX that outlives them.
// Level-triggered: an agent that lives is kept, a missing one gets a successor in the same folder.
#pragma once
#include <string>
#include <vector>

#include "plugins/provision/local_agent.h"
#include "plugins/sdk/node_link.h"

namespace bp::stages {

class LocalProvider {
 public:
  explicit LocalProvider(sdk::StageContext& ctx);

  /// All nodes of the plan, each connected to the daemon. kPeerLost with the agent's last log lines when
  /// it ends at once; kDeadlineExceeded names the node; kPortBusy names address and port.
  Result<v1::NodePool> create(const v1::DeploymentPlan& plan);
  /// Ends everything of this run on this machine; returns what could not be confirmed gone.
  Result<std::vector<std::string>> destroy();

 private:
  static constexpr int64_t kDialInMs = 10'000;
  static constexpr int64_t kReleaseMs = 20'000;
  static constexpr int64_t kGraceMs = 2'000;
  static constexpr int64_t kGoneMs = 5'000;

  /// Which nodes there are to be, with their addresses: as the handle has it once anything was made.
  Result<v1::NodePool> choose_pool(const v1::DeploymentPlan& plan);
  LocalAgent describe(uint32_t index) const;
  LocalAgent describe(const v1::NodeInfo& node) const;
  Status prepare(const LocalAgent& agent);
  Result<ProcessId> bring_up(const LocalAgent& agent);
  Status wait_for_dial_in(const LocalAgent& agent, const ProcessId& process);
  /// Empty when the node is confirmed gone.
  std::vector<std::string> release(const LocalAgent& agent);
  std::vector<uint32_t> indexes_on_disk() const;

  sdk::StageContext& ctx_;
  AgentPrograms programs_;
  std::string state_dir_;
  uint64_t run_number_;
};

}  // namespace bp::stages
