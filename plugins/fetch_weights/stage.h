// fetch_weights: brings the planned objects to every node, or finds them there. Inputs: "recipe",
// "validate.plan", "provision.pool", secrets par-N. Output: "weights" (WeightsReady).
// The node fetches in the background and resumes by itself; this stage asks and watches.
#pragma once
#include "plugins/sdk/stage.h"

namespace bp::stages {

class FetchWeights : public sdk::Stage {
 public:
  sdk::StageResult run(sdk::StageContext& ctx) override;
};

}  // namespace bp::stages
