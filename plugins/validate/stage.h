// validate: looks into the stores, reads the model's header, and plans the deployment before anything costs
// money. Inputs: "recipe", secrets par-N. Output: "plan" (DeploymentPlan).
// Final: kInvalidRecipe with problems, kHttpStatus, kForbiddenAddress, kCorruptData, kUnsupported,
// kDoesNotFit. Retriable: kHttpRetry, kDeadlineExceeded.
#pragma once
#include "plugins/sdk/stage.h"

namespace bp::stages {

class Validate : public sdk::Stage {
 public:
  sdk::StageResult run(sdk::StageContext& ctx) override;
};

}  // namespace bp::stages
