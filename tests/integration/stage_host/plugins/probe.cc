// A stage that does what its option "do" says: for tests of bp-stage-host.
#include <csignal>
#include <stdexcept>
#include <thread>

#include "plugins/sdk/stage.h"

struct Probe : bp::sdk::Stage {
  StageResult run(StageContext& ctx) override {
    const std::string what = ctx.option("do");
    if (what == "hello") return ctx.succeed("hello " + ctx.input("name"));
    if (what == "echo") return ctx.succeed(ctx.input("name"));
    if (what == "option") return ctx.succeed(ctx.option("common", "none"));
    if (what == "spin") {  // works without ever asking its host
      const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(std::stoi(ctx.option("ms")));
      while (std::chrono::steady_clock::now() < until) {
      }
      return ctx.succeed("spun");
    }
    if (what == "sleep") return ctx.sleep_ms(std::stoi(ctx.option("ms"))) ? ctx.succeed("slept") : ctx.cancelled_result();
    if (what == "deaf") {  // ignores its cancel
      std::this_thread::sleep_for(std::chrono::milliseconds(std::stoi(ctx.option("ms"))));
      return ctx.succeed("deaf");
    }
    if (what == "throw") throw std::runtime_error("thrown on purpose");
    if (what == "crash") ::raise(SIGSEGV);
    if (what == "hang") std::this_thread::sleep_for(std::chrono::seconds(100));
    if (what == "big") return ctx.succeed(std::string(2 << 20, 'x'));
    if (what == "wait") {
      ctx.save_handle("thing-1");
      ctx.save_checkpoint("half");
      ctx.progress(1, 2, "steps");
      while (ctx.sleep_ms(1000)) {
      }
      return ctx.cancelled_result();
    }
    if (what == "call") {
      ctx.log("info", "calling");
      if (auto s = ctx.put_secret("s", "value"); !s.ok()) return ctx.fail(s.error());
      bp::v1::NodeCommand c;
      c.mutable_list();
      auto reply = ctx.node_call("n1-0", c, 20'000);
      if (!reply.ok()) return ctx.fail(reply.error());
      return ctx.succeed(std::to_string(reply->list().processes_size()));
    }
    if (what == "notice") {
      auto n = ctx.next_notice(5000);
      return ctx.succeed(n ? n->process_ended().process_key() : "none");
    }
    return ctx.fail({bp::ErrorCode::kInvalidArgument, "unknown \"do\"", {}});
  }
};
BP_EXPORT_STAGE("probe", 3, Probe)
