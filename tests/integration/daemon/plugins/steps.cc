// A stage that does what its option "do" says: for tests of bp-daemon with real processes.
#include <csignal>

#include "plugins/sdk/stage.h"

struct Steps : bp::sdk::Stage {
  StageResult run(StageContext& ctx) override {
    const std::string what = ctx.option("do");
    ctx.log("info", "doing " + what + "\nfor " + ctx.effect_key());
    if (what == "crash-once" && ctx.checkpoint().empty()) {
      ctx.save_checkpoint("crashed");
      ctx.sleep_ms(200);  // the beat that carries it leaves
      ::raise(SIGKILL);
    }
    if (what == "fail-once" && ctx.checkpoint().empty()) {
      ctx.save_checkpoint("failed");
      return ctx.fail({bp::ErrorCode::kUnavailable, "not the first time", {}});
    }
    if (what == "keep") {
      ctx.ready({{"who", std::to_string(ctx.ref().attempt())}});
      while (ctx.sleep_ms(1000)) {
      }
      return ctx.cancelled_result();
    }
    if (auto par = ctx.secret("par-0"); !par.ok()) return ctx.fail(par.error());
    return ctx.succeed("made");
  }
};
BP_EXPORT_STAGE("steps", 1, Steps)
