// Watch: what serve knows of a deployment and how it judges what it sees.
#pragma once
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "plugins/sdk/head_client.h"
#include "plugins/sdk/node_link.h"

namespace bp::stages {

class Watch {
 public:
  static Result<Watch> from_inputs(sdk::StageContext& ctx);
  /// A client of the head; kNotFound when the control key is missing.
  Result<std::unique_ptr<sdk::HeadClient>> open_client(sdk::StageContext& ctx) const;

  /// nullopt: nothing of this deployment's present group is touched.
  std::optional<sdk::StageResult> judge_notice(sdk::StageContext& ctx, const v1::NodeNotice& notice) const;
  /// nullopt: all is well.
  std::optional<sdk::StageResult> judge_status(sdk::StageContext& ctx, const v1::HeadStatus& status) const;
  /// The head did not answer: asks its node. nullopt: the head's process lives, and may answer later.
  std::optional<sdk::StageResult> judge_silence(sdk::StageContext& ctx, const Error& why) const;
  /// nullopt: all agents of this machine live. Asks the kernel (pidfd), sooner than beats can be missed.
  std::optional<sdk::StageResult> judge_agents(sdk::StageContext& ctx) const;
  const v1::HeadReady& head() const { return head_; }
  const v1::DeploymentPlan& plan() const { return plan_; }

 private:
  v1::DeploymentPlan plan_;
  v1::NodePool pool_;
  v1::HeadReady head_;
  v1::RanksReady ranks_;
  std::vector<std::pair<Fd, std::string>> agents_;  // pidfd (invalid: gone already) and node id
};

}  // namespace bp::stages
