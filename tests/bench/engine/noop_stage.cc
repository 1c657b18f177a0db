// A stage that does nothing but hand its payload on: what is measured is the engine around it.
#include "plugins/sdk/stage.h"

struct Noop : bp::sdk::Stage {
  StageResult run(StageContext& ctx) override {
    return ctx.succeed({{"payload", ctx.input("payload")}});
  }
};
BP_EXPORT_STAGE("noop", /*version=*/1, Noop)
