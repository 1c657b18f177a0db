// A stage that does what its option "do" says: for tests of bp-stage-host.
#include <unistd.h>

#include <csignal>
#include <fstream>
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
      const auto until =
          std::chrono::steady_clock::now() + std::chrono::milliseconds(std::stoi(ctx.option("ms")));
      while (std::chrono::steady_clock::now() < until) {
      }
      return ctx.succeed("spun");
    }
    if (what == "sleep")
      return ctx.sleep_ms(std::stoi(ctx.option("ms"))) ? ctx.succeed("slept")
                                                       : ctx.cancelled_result();
    if (what == "effect") {  // leaves a line that tells how often it was begun
      std::ofstream(ctx.option("file"), std::ios::app) << ctx.run_id() << "\n" << std::flush;
      return ctx.sleep_ms(std::stoi(ctx.option("ms"))) ? ctx.succeed("done")
                                                       : ctx.cancelled_result();
    }
    if (what == "leak") {
      std::vector<std::string> kept;
      for (int i = 0; i < 2000 && ctx.sleep_ms(5); ++i) kept.emplace_back(1 << 20, 'x');
      return ctx.succeed("leaked");
    }
    if (what == "fill") {
      std::ofstream file(ctx.option("work_dir") + "/big");
      for (int i = 0; i < 2000 && ctx.sleep_ms(5); ++i)
        file << std::string(1 << 20, 'x') << std::flush;
      return ctx.succeed("filled");
    }
    if (what == "fork") {  // a hundred at most
      int made = 0;
      for (int i = 0; i < 100; ++i) {
        const pid_t pid = ::fork();
        if (pid == 0) {
          ::setsid();
          ::sleep(300);
          ::_exit(0);
        }
        made += pid > 0;
      }
      ctx.sleep_ms(500);
      return made <= 16 ? ctx.fail({bp::ErrorCode::kUnavailable, "cannot fork", {}})
                        : ctx.succeed(std::to_string(made));
    }
    if (what == "flood") {
      for (int i = 0; i < 20'000; ++i)
        ctx.log("info", "a line of some length that nobody wants to read");
      return ctx.succeed("flooded");
    }
    if (what == "abort") ::abort();
    if (what == "exit") ::_exit(7);
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
