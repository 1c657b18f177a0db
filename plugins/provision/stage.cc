#include "plugins/provision/stage.h"

#include "plugins/provision/local_provider.h"

namespace bp::stages {
namespace {

Error unknown_provider(const std::string& name) {
  return Error{ErrorCode::kUnsupported, "there is no provider \"" + name + "\"; this build has: local",
               "Choose --provider local"};
}

}  // namespace

sdk::StageResult Provision::run(sdk::StageContext& ctx) {
  const std::string provider = ctx.option("provider", "local");
  if (provider != "local") return ctx.fail(unknown_provider(provider));
  auto plan = ctx.input_message<v1::DeploymentPlan>("validate.plan");
  if (!plan.ok()) return ctx.fail(plan.error());
  LocalProvider local(ctx);
  auto pool = local.create(*plan);
  if (!pool.ok()) return ctx.fail(pool.error());
  return ctx.succeed({{std::string("pool"), pool->SerializeAsString()}});
}

sdk::StageResult Provision::destroy(sdk::StageContext& ctx) {
  const std::string provider = ctx.option("provider", "local");
  if (provider != "local") return ctx.fail(unknown_provider(provider));
  LocalProvider local(ctx);
  auto survivors = local.destroy();
  if (!survivors.ok()) return ctx.fail(survivors.error());
  if (survivors->empty()) return ctx.succeed();
  return ctx.needs_human(Error{ErrorCode::kNeedsHuman,
                               std::to_string(survivors->size()) + " things could not be confirmed gone", {}},
                         *survivors);
}

}  // namespace bp::stages
