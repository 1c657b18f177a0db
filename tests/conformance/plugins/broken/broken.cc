// Stages that each break one rule, chosen by option "break": the conformance kit must name it.
#include <unistd.h>

#include <csignal>
#include <thread>

#include "engine/base/files.h"
#include "plugins/sdk/stage.h"

#ifdef BROKEN_FRAGILE
#define BROKEN_NAME "fragile"
constexpr bool kFragile = true;
#else
#define BROKEN_NAME "broken"
constexpr bool kFragile = false;
#endif

// What it makes: a file at option "path". Kept well unless "break" says otherwise.
struct Broken : bp::sdk::Stage {
  StageResult run(StageContext& ctx) override {
    const std::string what = ctx.option("break"), path = ctx.option("path");
    if (path.empty() || path.size() > 4096) {
      if (kFragile) ::raise(path.empty() ? SIGSEGV : SIGABRT);  // missing_inputs, huge_inputs
      return fail(ctx, "no path that can be");
    }
    const bool there = ::access(path.c_str(), F_OK) == 0;
    if (what == "apply") return fail(ctx, "on purpose");
    if (what == "apply_again" && there && !ctx.handle().empty()) return fail(ctx, "it is there already");
    if (what == "killed_at_result" && there && ctx.handle() == path) return fail(ctx, "it is there already");
    if (what == "recover_unknown" && !ctx.handle().empty() && ctx.handle() != path) ::raise(SIGSEGV);
    if (what != "handle_first") ctx.save_handle(path);
    if (what == "killed_at_beats" && ctx.checkpoint() == "half") return fail(ctx, "half is more than it can take");
    ctx.save_checkpoint("half");
    if (what == "quiet_logs") {
      for (int i = 0; i < 20'000; ++i) ctx.log("info", "line");
      if (!ctx.sleep_ms(200)) return ctx.cancelled_result();
    }
    if (what == "cancelled_at_beats") {
      std::this_thread::sleep_for(std::chrono::milliseconds(2500));
    } else if (!ctx.sleep_ms(100)) {
      return ctx.cancelled_result();
    }
    ctx.progress(1, 1, "files");
    if (auto wrote = bp::write_file_atomic(path, "x"); !wrote.ok()) return ctx.fail(wrote.error());
    auto result = ctx.succeed(path);
    result.set_handle(path);
    return result;
  }
  StageResult destroy(StageContext& ctx) override {
    const std::string what = ctx.option("break"), path = ctx.handle();
    if (what == "destroy_of_nothing" && path.empty()) return fail(ctx, "nothing to destroy");
    if (path.empty()) return ctx.succeed();
    if (path != ctx.option("path")) {
      if (what == "unknown_handle") std::this_thread::sleep_for(std::chrono::seconds(100));
      return fail(ctx, "this handle is none of mine");
    }
    if (what == "destroy_twice" && ::access(path.c_str(), F_OK) != 0) return fail(ctx, "it is gone already");
    ::unlink(path.c_str());
    return ctx.succeed();
  }
  static StageResult fail(StageContext& ctx, const std::string& why) {
    return ctx.fail({bp::ErrorCode::kInvalidArgument, why, {}});
  }
};
BP_EXPORT_STAGE(BROKEN_NAME, 1, Broken)
