// The cheapest stage that still carries its payload from input to output.
#include "plugins/sdk/stage.h"

struct Noop : bp::sdk::Stage {
  StageResult run(StageContext& ctx) override { return ctx.succeed(ctx.input("payload")); }
};
BP_EXPORT_STAGE("noop", 1, Noop)
