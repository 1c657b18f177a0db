#include <stdexcept>
#include <thread>

#include <catch2/catch.hpp>

#include "plugins/sdk/harness.h"

using namespace bp;

namespace {

struct Greeter : sdk::Stage {
  StageResult run(StageContext& ctx) override {
    auto recipe = ctx.input_message<v1::Recipe>("recipe");
    if (!recipe.ok()) return ctx.fail(recipe.error());
    ctx.save_handle("h2");
    return ctx.succeed({{"name", recipe->deployment_name()}, {"was", ctx.attempt().handle()}});
  }
  StageResult destroy(StageContext& ctx) override {
    return ctx.needs_human({ErrorCode::kNeedsHuman, "still there", {}}, {ctx.handle()});
  }
};

struct Waiter : sdk::Stage {
  StageResult run(StageContext& ctx) override {
    while (ctx.sleep_ms(50)) {
    }
    return ctx.rewind("provision", {ErrorCode::kCancelled, "cancelled", {}});
  }
};

struct Thrower : sdk::Stage {
  StageResult run(StageContext&) override { throw 7; }
};

struct Caller : sdk::Stage {
  StageResult run(StageContext& ctx) override {
    auto r = ctx.node_call("n1-0", {}, 10);
    return r.ok() ? ctx.succeed() : ctx.rewind("provision", r.error());
  }
};

}  // namespace

TEST_CASE("inputs, handles and outputs pass the C boundary") {
  sdk::StageHarness h;
  Greeter stage;
  CHECK(h.run(stage).error().code() == error_name(ErrorCode::kInternal));
  v1::Recipe recipe;
  recipe.set_deployment_name("demo");
  (*h.attempt.mutable_inputs())["recipe"] = recipe.SerializeAsString();
  h.attempt.set_handle("h1");
  auto r = h.run(stage);
  CHECK(r.outcome() == v1::AttemptResult::SUCCEEDED);
  CHECK(r.outputs().at("name") == "demo");
  CHECK(r.outputs().at("was") == "h1");
  CHECK(r.handle() == "h2");
  CHECK(h.recorded().merged().handle() == "h2");
}

TEST_CASE("destroy is called in its mode") {
  sdk::StageHarness h;
  h.attempt.set_mode(v1::ATTEMPT_MODE_DESTROY);
  h.attempt.set_handle("pid 5");
  Greeter stage;
  auto r = h.run(stage);
  CHECK(r.outcome() == v1::AttemptResult::NEEDS_HUMAN);
  REQUIRE(r.survivors_size() == 1);
  CHECK(r.survivors(0) == "pid 5");
}

TEST_CASE("a cancelled stage ends as cancelled, whatever it asks for") {
  sdk::StageHarness h;
  Waiter stage;
  std::thread later([&] { h.cancel(); });
  auto r = h.run(stage);
  later.join();
  CHECK(r.outcome() == v1::AttemptResult::CANCELLED);
  CHECK(r.rewind_to_stage().empty());
}

TEST_CASE("anything thrown becomes a failed attempt") {
  sdk::StageHarness h;
  Thrower stage;
  CHECK(h.run(stage).error().code() == error_name(ErrorCode::kPluginCrash));
}

TEST_CASE("a node's error comes back with its code; silence names the node") {
  sdk::StageHarness h;
  Caller stage;
  auto r = h.run(stage);
  CHECK(r.error().code() == error_name(ErrorCode::kDeadlineExceeded));
  CHECK_THAT(r.error().message(), Catch::Contains("n1-0"));
  CHECK(r.rewind_to_stage() == "provision");
  h.node = [](const std::string&, const v1::NodeCommand& c) {
    CHECK(c.run_id() == "r-test");
    return sdk::node_error(ErrorCode::kStaleEpoch, "too old");
  };
  CHECK(h.run(stage).error().code() == error_name(ErrorCode::kStaleEpoch));
}
