// Group: the ranks of a deployment as its plan and pool name them, and how they are started and found.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "plugins/sdk/head_client.h"
#include "plugins/sdk/node_link.h"

namespace bp::stages {

class Group {
 public:
  /// Reads the inputs of the stage. kInternal when one is missing.
  static Result<Group> from_inputs(sdk::StageContext& ctx);

  const v1::DeploymentPlan& plan() const { return plan_; }
  const v1::HeadReady& head() const { return head_; }
  const v1::NodePool& pool() const { return pool_; }
  const v1::NodeInfo* node_of(const v1::RankPlan& rank) const;
  const v1::NodeInfo* node_of_head() const;

  Result<std::unique_ptr<sdk::HeadClient>> open_client(sdk::StageContext& ctx) const;
  /// StartProcess of a rank under the group's epoch.
  Result<v1::NodeCommand> start_command(sdk::StageContext& ctx, const v1::RankPlan& rank) const;
  /// True when every rank of the plan lives on its node under `epoch`. kPeerLost: a node is gone.
  Result<bool> all_alive(sdk::StageContext& ctx, const v1::Epoch& epoch) const;
  v1::RanksReady describe(const v1::Epoch& epoch) const;
  static std::string process_key(uint32_t rank) { return "rank-" + std::to_string(rank); }

 private:
  uint32_t threads_per_rank() const;
  v1::DeploymentPlan plan_;
  v1::NodePool pool_;
  v1::WeightsReady weights_;
  v1::HeadReady head_;
};

}  // namespace bp::stages
