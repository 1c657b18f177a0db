// start_head: one bp-head on the head node, answering on its client port. Inputs: "recipe", "validate.plan",
// "provision.pool", "fetch_weights.weights". Output: "head" (HeadReady); secrets rank_secret_key and
// control_secret_key, durable before the process starts. A head that lives and answers is kept: its
// public keys travel as labels of its process, so that the node itself tells them again.
// kPortBusy names the address; retriable. Destroy: StopProcess.
#pragma once
#include "plugins/sdk/stage.h"

namespace bp::stages {

class StartHead : public sdk::Stage {
 public:
  sdk::StageResult run(sdk::StageContext& ctx) override;
  sdk::StageResult destroy(sdk::StageContext& ctx) override;
};

}  // namespace bp::stages
