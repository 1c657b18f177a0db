// Stages in Python: bp_stage_host.py against the daemon's part of the protocol, alone and shared.
#include <signal.h>

#include <catch2/catch.hpp>

#include "plugins/sdk/harness.h"
#include "shared_daemon.h"

using namespace bp;
using bp::sdk::PluginHarness;
using bp::test::SharedDaemon;

namespace {

const std::string kHost = std::string(BP_BUILD_DIR) + "/lib/bp-daemon/python/bp_stage_host.py";
const std::string kSnake =
    std::string(BP_SOURCE_DIR) + "/tests/integration/stage_host/plugins/snake.py";
constexpr int64_t kLongMs = 15'000;

struct One {
  std::string dir = "/tmp/" + random_id("bppy");
  std::unique_ptr<PluginHarness> h;
  explicit One(const std::string& plugin = kSnake, std::vector<std::string> args = {}) {
    REQUIRE(make_dirs(dir).ok());
    auto started = PluginHarness::start({kHost, plugin, dir, std::move(args)});
    REQUIRE(started.ok());
    h = std::move(*started);
  }
  ~One() {
    h.reset();
    (void)remove_tree(dir);
  }
  void send(const std::string& what) {
    v1::RunAttempt a;
    a.set_mode(v1::ATTEMPT_MODE_APPLY);
    (*a.mutable_options())["do"] = what;
    (*a.mutable_inputs())["name"] = "world";
    h->send_attempt(SharedDaemon::ref(7), a);
  }
  v1::AttemptResult run(const std::string& what) {
    send(what);
    auto r = h->result(Deadline::in_ms(kLongMs));
    REQUIRE(r.ok());
    CHECK(h->exit_code(Deadline::in_ms(kLongMs)).value() == 0);
    return *r;
  }
};

}  // namespace

TEST_CASE("a stage in Python says hello, runs, and its host ends once the result is acknowledged") {
  One one;
  auto hello = one.h->hello(Deadline::in_ms(kLongMs));
  REQUIRE(hello.ok());
  CHECK(hello->plugin() == "snake");
  CHECK(hello->plugin_version() == 2);
  CHECK(hello->process().pid() == one.h->host().pid);
  CHECK(one.run("hello").outputs().at("value") == "hello world");
}

TEST_CASE("what a stage in Python may not do fails its attempt with words") {
  CHECK_THAT(One().run("throw").error().message(),
             Catch::Contains("thrown on purpose") && Catch::Contains("snake.py:"));
  CHECK(One().run("code").error().code() == "BP_DISK_FULL");
  CHECK(One().run("garbage").error().code() == "BP_PLUGIN_CRASH");
  CHECK(One().run("big").error().code() == "BP_TOO_LARGE");
}

TEST_CASE("a stage in Python that ends its process takes only its host along") {
  One one;
  one.send(GENERATE(as<std::string>{}, "exit", "crash"));
  auto code = one.h->exit_code(Deadline::in_ms(kLongMs));
  REQUIRE(code.ok());
  CHECK((*code == 3 || *code == -SIGSEGV));
}

TEST_CASE("a Python file that is no plugin is refused with a sentence and exit code 4") {
  const std::string plugin = GENERATE(as<std::string>{}, "/nowhere/missing.py", kHost);
  One one(plugin);
  auto hello = one.h->hello(Deadline::in_ms(kLongMs));
  REQUIRE(hello.ok());
  CHECK(hello->load_error().code() == "BP_PLUGIN_LOAD");
  CHECK_THAT(hello->load_error().message(), Catch::Contains(plugin));
  CHECK(one.h->exit_code(Deadline::in_ms(kLongMs)).value() == 4);
}

TEST_CASE("cancel, beats, node calls and secrets pass; a daemon that comes back hears all again") {
  One one;
  SECTION("cancel") {
    one.send("wait");
    auto until = Deadline::in_ms(kLongMs);
    while (one.h->recorded().merged().checkpoint().empty() && !until.passed()) usleep(5'000);
    one.h->go_away();
    usleep(200'000);
    REQUIRE(one.h->come_back().ok());
    const auto hellos = one.h->hellos();
    until = Deadline::in_ms(kLongMs);
    while (one.h->hellos() == hellos && !until.passed()) usleep(5'000);
    CHECK(one.h->recorded().merged().handle() == "thing-1");
    one.h->send_cancel(1000);
    auto r = one.h->result(Deadline::in_ms(kLongMs));
    REQUIRE(r.ok());
    CHECK(r->outcome() == v1::AttemptResult::CANCELLED);
    CHECK(r->handle() == "thing-1");
  }
  SECTION("call") {
    one.h->set_node([](const std::string&, const v1::NodeCommand& c) {
      v1::NodeCommandReply r;
      CHECK(c.has_list());
      CHECK(c.epoch().counter() == 7);
      r.mutable_list()->add_processes();
      return r;
    });
    CHECK(one.run("call").outputs().at("value") == "1");
    CHECK(one.h->recorded().secrets["s"] == "value");
    CHECK(one.h->recorded().logs == std::vector<std::string>{"info: calling"});
  }
}

TEST_CASE("a shared host in Python runs many attempts, says what it holds, and runs no double") {
  SharedDaemon d(kHost, kSnake, 32);
  REQUIRE(d.pump([&] { return !d.hellos.empty(); }, kLongMs));
  CHECK(d.hellos[0].shared());
  v1::StageBatch batch;
  for (uint64_t i = 1; i <= 100; ++i)
    SharedDaemon::add_run(batch, i, {{"do", i == 50 ? "option" : "hello"}});
  SharedDaemon::add_run(batch, 200, {{"do", "wait"}});
  d.send(batch);
  d.send(batch);
  REQUIRE(d.pump([&] { return d.results.size() == 100; }, kLongMs));
  CHECK(d.last[50].outputs().at("value") == "of-all");
  d.pump([] { return false; }, 700);
  for (const auto& [id, count] : d.results) CHECK(count == 1);
  d.go_away();
  usleep(200'000);
  d.hellos.clear();
  d.come_back();
  REQUIRE(d.pump([&] { return !d.hellos.empty(); }, kLongMs));
  REQUIRE(d.hellos[0].holds_size() == 1);
  CHECK(d.hellos[0].holds(0).epoch().counter() == 200);
}
