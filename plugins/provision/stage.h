// provision: brings up the nodes of a deployment. Input: "validate.plan". Output: "pool" (NodePool).
// Destroying confirms that every agent and every work folder is gone, else kNeedsHuman with survivors.
// The provider is chosen by the option "provider"; each provider has its own files local_*, ...
#pragma once
#include "plugins/sdk/stage.h"

namespace bp::stages {

class Provision : public sdk::Stage {
 public:
  sdk::StageResult run(sdk::StageContext& ctx) override;
  sdk::StageResult destroy(sdk::StageContext& ctx) override;
};

}  // namespace bp::stages
