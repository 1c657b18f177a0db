// What a recipe would become, found out by this program itself: it lists the stores and reads the
// model's header as the validate stage does, without a daemon.
#pragma once
#include <optional>

#include "bp/v1/recipe.pb.h"
#include "engine/cli/commands.h"
#include "engine/plan/recipe.h"

namespace bp::cli {

struct Outlook {
  v1::DeploymentPlan plan;
  /// Set when a store could not be looked into from here: the plan then has only what the recipe
  /// says.
  std::optional<Error> unknown;
};

/// `parsed` must be sound. Errors: what the look outside shows wrong (kHttpStatus, kInvalidRecipe,
/// kCorruptData, kUnsupported, kTooLarge, kDoesNotFit). Blocks for at most a minute.
Result<Outlook> look_outside(const plan::ParsedRecipe& parsed, const Options& options);

}  // namespace bp::cli
